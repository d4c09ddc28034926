"""What the parts of a sweep say to each other: plain data and protocols, no logic and no other package of ours."""
