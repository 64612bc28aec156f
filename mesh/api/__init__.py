"""What a Python program uses: a client of a node, a node of its own, and what both can do."""
