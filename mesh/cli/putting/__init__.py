"""The steps of `mesh put`, each in a file of its own; mesh/cli/put.py puts them together."""
