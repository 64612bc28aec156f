"""How a node reaches its peers: the ports, HTTP, and an in-memory network."""
