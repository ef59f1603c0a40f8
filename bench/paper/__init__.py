"""A paper's tables, from plans to files, and again from only the committed outcomes."""
