"""The command line: one module per family of commands, and ``app``, which lists them all."""
