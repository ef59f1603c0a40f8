"""Measure how robust a classifier is when a purifier cleans each image first."""

__version__ = "0.1.0"
