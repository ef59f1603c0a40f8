"""The name under which RobustBench was first documented; see ``bench.models.robustbench``."""

from bench.models.robustbench import import_robustbench

__all__ = ["import_robustbench"]
