"""The function f that is measured: its frozen batches, its gradient and Hessian, and its rounding errors."""
