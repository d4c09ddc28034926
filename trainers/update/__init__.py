"""One step: the transform of the gradient, the optimiser's direction, and averages of iterates."""
