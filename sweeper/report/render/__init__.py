"""Answers as text: terminal tables, Markdown, CSV and JSON."""
