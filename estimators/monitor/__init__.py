"""Measurements in a training loop that somebody else has written: when, at which price, and where the rows go."""
