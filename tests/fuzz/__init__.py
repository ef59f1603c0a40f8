"""Random and mutated inputs for everything that reads what a user wrote."""
