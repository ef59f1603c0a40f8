"""Data sets: names and pixels."""
