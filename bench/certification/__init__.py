"""Certified radii of purifiers that begin with Gaussian noise, from counted votes."""
