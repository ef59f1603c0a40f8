"""Trained networks: training, checkpoints, RobustBench's zoo."""
