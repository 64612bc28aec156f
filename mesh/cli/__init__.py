"""The command line, which is also where everything is put together."""
