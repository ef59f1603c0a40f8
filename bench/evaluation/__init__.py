"""One cell: propose, judge, keep."""
