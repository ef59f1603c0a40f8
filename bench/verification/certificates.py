"""Whether certificates say what their votes say, and whether an attack contradicts one.

Radii are checked by what defines them, with the binomial distribution, and not by the formula
that made them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binom, norm

from bench.data.load import load_test
from bench.data.names import found_again
from bench.errors import BenchError, StoreError
from bench.results.cell import SOURCES, digest_of
from bench.results.certificates import certified_of, folder_of
from bench.results.files import read_json
from bench.results.settings import measured
from bench.results.store import Store, unchecked_rows
from bench.verification.digests import changed
from bench.verification.problem import Problem

Array = npt.NDArray[Any]
_CLOSE = 1e-6  # of a share: numbers are stored as float64
# Of one image's votes: a radius is wrong for one image in a thousand, and then by little.
_IMPOSSIBLE = 1e-6


def problems_of(store: Store, *, data: Path) -> Iterator[Problem]:
    """Check every finished certificate of a results folder; ``data`` has the data sets."""
    own = folder_of(store)
    for key in own.finished():
        said = f"certificate {key}"
        try:
            content = read_json(own.cell(key) / "cell.json")
            rows = unchecked_rows(own.outcomes(key))
            found = digest_of(measured(content))
            if found != key:
                yield Problem(True, f"{said}: cell.json hashes to {found}")
            about = read_json(own.cell(key) / "provenance.json")
            for text in changed(own.cell(key), content, about):
                yield Problem(True, f"{said}: {text}")
            for text in (*_votes(content, rows), *_against_attacks(store, content, rows)):
                yield Problem(True, f"{said}: {text}")
            yield from _labels(said, content, rows, data)
        except StoreError as error:
            yield Problem(True, f"{said}: {error}")
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            yield Problem(True, f"{said} is malformed ({type(error).__name__}: {error})")


def _votes(content: Mapping[str, Any], rows: pd.DataFrame) -> Iterator[str]:
    params = content["attack"]["params"]
    if not np.array_equal(rows["index"], np.arange(content["n"])):
        yield "its rows are not the first n images"
        return
    selection, votes = (np.stack(list(rows[name])) for name in ("selection", "votes"))
    for name, counted, draws in (
        ("selection", selection, params["selection"]), ("votes", votes, content["draws"])
    ):  # fmt: skip
        if (counted < 0).any() or (counted.sum(1) != draws).any():
            yield f"'{name}' do not sum to {draws}"
            return
    chosen = rows["class"].to_numpy(np.int64)
    if (selection[np.arange(len(rows)), chosen] < selection.max(1)).any():
        yield "'class' is not the one that the first draws chose"
    radius, alpha = rows["radius"].to_numpy(float), 1 - params["confidence"]
    count, draws = votes[np.arange(len(rows)), chosen], content["draws"]
    # The bound p is the share of which as many votes or more have probability alpha.
    tail = binom.sf(count - 1, draws, norm.cdf(radius / params["sigma"]))
    wrong = np.where(radius > 0, np.abs(tail - alpha) > _CLOSE, tail < alpha - _CLOSE)
    if odd := int((wrong | ~(radius >= 0)).sum()):
        yield f"'radius' of {odd} images does not follow from the votes"


def _against_attacks(
    store: Store, content: Mapping[str, Any], rows: pd.DataFrame
) -> Iterator[str]:
    """Name the cells whose judge saw votes that a radius excludes."""
    subject, sigma = certified_of(content), content["attack"]["params"]["sigma"]
    for key in store.finished():
        try:
            cell = read_json(store.cell(key) / "cell.json")
            if certified_of(cell) != subject or cell["norm"] != "L2":
                continue
            judged = unchecked_rows(store.outcomes(key)).set_index("index")
            both = judged.join(rows.set_index("index")[["class", "radius"]], how="inner")
            inside = both[both["legal"] & (both["distance"] < both["radius"])]
            if inside.empty:
                continue
            odd = _impossible(inside, sigma)
        except (StoreError, AttributeError, IndexError, KeyError, TypeError, ValueError):
            continue  # told of the cell
        if odd:
            yield (
                f"{odd} of {len(inside)} images within their radii have votes under "
                f"{cell['attack']['name']} (cell {key}) that no noise of {sigma:g} gives: the "
                "purifier does more than certified_noise says"
            )


def _impossible(inside: pd.DataFrame, sigma: float) -> int:
    """Count images whose class won too few of the judge's draws for their distance."""
    votes = np.stack(list(inside["votes"]))
    count = votes[np.arange(len(inside)), inside["class"].to_numpy(np.int64)]
    left = (inside["radius"] - inside["distance"]).to_numpy(float) / sigma
    return int((binom.cdf(count, votes.sum(1), norm.cdf(left)) < _IMPOSSIBLE).sum())


def _labels(
    said: str, content: Mapping[str, Any], rows: pd.DataFrame, data: Path
) -> Iterator[Problem]:
    name = found_again(str(content["dataset"]), content.get(SOURCES) or {})
    try:
        pixels = load_test(name, root=data)
    except BenchError as error:
        yield Problem(False, f"{said}: labels of {name}: {error}")
        return
    if pixels.digest != content["data"]:
        yield Problem(False, f"{said}: the data set {name} at hand has another digest")
    elif (rows["label"].to_numpy() != pixels.y.numpy()[: len(rows)]).any():
        yield Problem(True, f"{said}: labels are not the test set's")
