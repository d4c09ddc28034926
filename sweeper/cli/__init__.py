"""The command line: one module per family of commands, and ``app``, which lists them all."""

from sweeper.cli.app import main

__all__ = ["main"]
