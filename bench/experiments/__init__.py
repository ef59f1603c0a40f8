"""Many cells: plans, their order, their state."""
