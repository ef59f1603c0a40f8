"""What one hands in with a paper, and what a reviewer checks."""
