"""Answers as figures, on matplotlib."""
