"""The run directory: its paths, its journal, its lock, and its repair after a crash. Does not use Arrow."""
