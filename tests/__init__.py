"""A package, so that tests can share helpers by relative imports."""
