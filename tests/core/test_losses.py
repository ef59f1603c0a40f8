"""The losses of attacks against their definitions."""

from __future__ import annotations

import pytest
import torch

from bench.core.losses import LOSSES, dlr, margin
from bench.errors import UsageError


def test_dlr_is_the_difference_of_logits_ratio_for_every_rank_of_the_label():
    logits = torch.randn(64, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for y in range(5):
        labels = torch.full((64,), y)
        for row, value in zip(logits, dlr(logits, labels), strict=True):
            z = sorted(row.tolist(), reverse=True)
            other = z[1] if z[0] == float(row[y]) else z[0]
            assert float(value) == pytest.approx(-(float(row[y]) - other) / (z[0] - z[2]))


@pytest.mark.parametrize("classes", [3, 10])
def test_dlr_neither_scales_nor_shifts_and_has_the_sign_of_the_margin(classes):
    logits = torch.randn(
        64, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    y = torch.arange(64) % classes
    assert torch.allclose(dlr(1e3 * logits - 7, y), dlr(logits, y))
    assert torch.equal(dlr(logits, y) > 0, margin(logits, y) > 0)


def test_dlr_asks_for_three_classes():
    with pytest.raises(UsageError, match="needs three classes and there are 2"):
        LOSSES["dlr"](torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
