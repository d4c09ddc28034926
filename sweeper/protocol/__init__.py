"""What the parts of a sweep say to each other: plain data and protocols; no logic, no imports of our other packages."""
