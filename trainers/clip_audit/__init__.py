"""What a training step does to gradients, found from what it does to weights."""
