"""Directional smoothness, eq. (20) of the paper: exact, searched and interpolated, with its noise floor."""
