"""Certificates: radii from counted votes."""
