"""What to try next: pure searchers, a history in and trials out; no clock, disk, torch or Ray."""
