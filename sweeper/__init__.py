"""clipsweep."""
