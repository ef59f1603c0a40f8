"""Results as one HTML file that opens offline: a table, charts and pictures."""
