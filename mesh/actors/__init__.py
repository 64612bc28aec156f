"""The actors: each owns what it changes, and is supervised by the node's nursery."""
