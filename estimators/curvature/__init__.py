"""Second derivatives: curvature along a direction, the Hessian's norm, and its spectrum."""
