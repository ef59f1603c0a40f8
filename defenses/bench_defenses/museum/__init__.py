"""Purifiers that others published with their weights, in code of ours."""
