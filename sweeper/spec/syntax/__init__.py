"""YAML as text with positions: reading it within bounds, overlays and overrides, and errors that point at it."""
