"""The audit: checks C1 to C29 of a defense's robust accuracy, and a verdict in words."""
