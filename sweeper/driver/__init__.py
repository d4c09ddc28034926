"""The loop around the schedule: wait, handle, act, commit; no policy of its own."""
