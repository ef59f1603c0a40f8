"""Ways to start several processes on one plan; they share its work by claims, as equals."""
