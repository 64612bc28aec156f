"""What can be typed after `mesh`: the arguments of each command, and what it calls.

A command imports what it is made of when it is called: a client command need not load a web
server, and the help needs nothing but typer. tests/cli/test_loading.py names what each may load.
"""
