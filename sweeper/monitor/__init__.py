"""Looking at a run from outside, by its directory alone: displays, status, following a driver elsewhere."""
