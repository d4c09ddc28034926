"""The run directory: its paths, its journal, its lock, and its repair after a crash. Knows no Arrow."""
