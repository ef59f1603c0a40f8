"""Measure the attacks themselves, against defenses whose robust accuracy is known exactly."""
