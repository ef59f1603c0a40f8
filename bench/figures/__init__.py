"""Figures of a paper: each is a PNG, the CSV that it is drawn from, and a JSON about both."""
