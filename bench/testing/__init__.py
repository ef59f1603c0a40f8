"""Contract tests of plugins, for tests of your own: all of this room that is public."""

from bench.testing.check import check_attack, check_classifier, check_dataset, check_defense
from bench.testing.outcome import ContractError, Result

__all__ = [
    "ContractError", "Result", "check_attack", "check_classifier", "check_dataset",
    "check_defense",
]  # fmt: skip
