"""A paper's tables, from plans to files, and again from the committed outcomes alone."""
