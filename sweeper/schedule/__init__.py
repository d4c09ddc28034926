"""What to do next: pure state machines, events in and commands out; no clock, disk, torch or Ray."""
