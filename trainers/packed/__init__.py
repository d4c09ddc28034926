"""Several trials of one shape whose gradients are computed in one call, with the bits of trials by themselves."""
