"""What ``benchmarks/gpu.py`` looks at: cases, their values on a CPU, and the checks by name."""
