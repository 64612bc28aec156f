"""HTTP: the Quart application, and Hypercorn serving it inside the node's own task group."""
