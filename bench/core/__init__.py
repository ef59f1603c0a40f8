"""What one must trust for a number: threat model, views, noise, passes."""
