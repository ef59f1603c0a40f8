"""Plugins of all kinds: where they are found, and their parameters."""
