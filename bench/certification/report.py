"""What a certificate says: accuracy by radius."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from bench.results.certificates import folder_of, lower_bound
from bench.results.files import read_json
from bench.results.stats import wilson
from bench.results.store import Store, read_rows


def report(store: Store, key: str, radii: Sequence[float], *, steps: int) -> dict[str, Any]:
    """Write a finished certificate's accuracy in percent at some radii, as JSON values.

    Without ``radii``: at 0 and in ``steps`` equal steps to the largest that the draws certify.
    """
    own = folder_of(store)
    cell = read_json(own.cell(key) / "cell.json")
    rows = read_rows(own.outcomes(key))
    params, n = cell["attack"]["params"], len(rows)
    best = lower_bound(
        np.array([cell["draws"]]), np.array([cell["draws"]]), confidence=params["confidence"]
    )
    largest = float(params["sigma"] * ndtri(max(float(best[0]), 0.5)))
    asked = radii or [round(largest * step / steps, 3) for step in range(steps)]
    right = (rows["class"] == rows["label"]).to_numpy()
    found = []
    for radius in asked:
        count = int((right & (rows["radius"] > radius).to_numpy()).sum())
        low, high = wilson(count, n)
        shares = {"certified": count / n, "low": low, "high": high}
        percent = {name: round(100 * share, 2) for name, share in shares.items()}
        found.append({"radius": radius, **percent})
    return {
        "key": key,
        **{name: cell[name]["name"] for name in ("defense", "classifier")},
        **{name: cell[name] for name in ("dataset", "n", "seed", "draws")},
        **{name: params[name] for name in ("sigma", "confidence", "selection")},
        "abstains": round(100 * float((rows["radius"] == 0).mean()), 2),
        "largest": largest,
        "certified": found,
    }
