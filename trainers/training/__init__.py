"""The training loop: steps, rows, snapshots and checkpoints."""
