"""The log of records, the index over it, and how the one is made from the other."""
