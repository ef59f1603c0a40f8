"""Commands killed at random moments, and what the next command makes of it."""
