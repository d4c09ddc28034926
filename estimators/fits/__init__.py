"""Statistics of what was measured: intervals, correlations, and lines through points. Knows no torch."""
