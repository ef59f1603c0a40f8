"""What was measured: cells, the store, statistics, tables."""
