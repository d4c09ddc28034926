"""A run as one HTML file: what is on it, thinned to what a browser can hold, and how it becomes text."""
