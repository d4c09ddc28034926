"""What the parts of a sweep say to each other: plain data and protocols, no logic, and no imports from our other packages."""
