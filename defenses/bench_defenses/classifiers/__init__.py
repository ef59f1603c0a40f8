"""Classifiers to defend."""
