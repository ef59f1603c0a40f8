"""Ways to start several processes on one plan; each claims its share of the work."""
