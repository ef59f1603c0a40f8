"""Recompute what a results folder claims from its images, by other code than made it.

Distances, legality, verdicts, keys and digests are worked out again with numpy in float64. The
judge, its geometry and the code that runs cells are not imported: a fault of theirs is not
repeated here. Whether the votes themselves are right is for ``bench.verification.revote``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from bench.core.protocols import Pixels
from bench.data.load import load_test
from bench.data.names import found_again
from bench.errors import BenchError, StoreError
from bench.models.checkpoints import is_card_of
from bench.models.trainable import Trainable
from bench.plugins.catalogue import Kind, build
from bench.plugins.names import parsed
from bench.plugins.sources import source_of
from bench.results.cell import SOURCES, digest_of
from bench.results.cell_row import void_note
from bench.results.digests import fault_of_keys
from bench.results.files import read_json
from bench.results.progress import Progress, Work
from bench.results.settings import measured
from bench.results.store import Store, unchecked_rows
from bench.verification.digests import changed, changed_images
from bench.verification.problem import Problem
from bench.verification.runs import runs_of

Array = npt.NDArray[Any]
Data = dict[str, Pixels | None]  # by name; None where a data set is not available
_TOLERANCE = 1e-6  # by which a float32 image may lie outside its ball
_ULP = 2.0**-23  # by which float32 may miss the level that a pixel stands for
_SHOWN = 5  # images named in a message


@dataclass(frozen=True)
class CheckedCell:
    """What was found out about one cell; ``images`` says whether all of them were there."""

    key: str
    title: str
    findings: tuple[Problem, ...]
    images: bool
    void: str = ""  # why it is void, which the cell says itself

    @property
    def wrong(self) -> list[str]:
        """What contradicts."""
        return [finding.text for finding in self.findings if finding.wrong]

    @property
    def unchecked(self) -> list[str]:
        """What could not be checked."""
        return [finding.text for finding in self.findings if not finding.wrong]


@dataclass(frozen=True)
class Report:
    """All finished cells of a folder, and what concerns the folder as a whole."""

    cells: tuple[CheckedCell, ...]
    folder: tuple[Problem, ...]

    @property
    def contradicted(self) -> bool:
        """Whether anything contradicts."""
        return any(cell.wrong for cell in self.cells) or any(f.wrong for f in self.folder)


@dataclass(frozen=True)
class Weights:
    """Checkpoints by SHA-256: those available, and damaged files by what their card says."""

    present: frozenset[str]
    damaged: Mapping[str, str]


def verify(store: Store, *, data: Path) -> Work[Report]:
    """Recompute every finished cell of a folder; ``data`` is the folder of the data sets."""
    keys = store.finished()
    weights = _weights(store)
    pixels, missing = _load(store, keys, data)
    cells = []
    for done, key in enumerate(keys):
        yield Progress("verify", done, len(keys), unit="cells")
        cells.append(_checked(store, key, weights, pixels))
    yield Progress("verify", len(keys), len(keys), unit="cells")
    damaged = (Problem(True, f"{name} is not what its card says") for name in
               weights.damaged.values())  # fmt: skip
    return Report(tuple(cells), (*missing, *damaged, *runs_of(store)))


def _load(store: Store, keys: Sequence[str], root: Path) -> tuple[Data, list[Problem]]:
    """Load every data set of the cells once; one that is not there is told once."""
    found: Data = {}
    missing = []
    for key in keys:
        try:
            name = _dataset(read_json(store.cell(key) / "cell.json"))
        except StoreError:
            continue  # told of the cell
        if name not in found:
            try:
                found[name] = load_test(name, root=root)
            except BenchError as error:
                found[name] = None
                missing.append(Problem(False, f"labels and images of {name}: {error}"))
    return found, missing


def _dataset(content: Mapping[str, Any]) -> str:
    """Return the name of a cell's data set, or where its files were found."""
    return found_again(str(content.get("dataset")), content.get(SOURCES) or {})


def _checked(store: Store, key: str, weights: Weights, data: Data) -> CheckedCell:
    title, void = "?", ""
    images: list[bool] = []  # filled by the checks: whether each block's images are there
    findings = []
    try:
        content = read_json(store.cell(key) / "cell.json")
        title = f"{content['defense']['name']} under {content['attack']['name']}"
        rows = unchecked_rows(store.outcomes(key))
        void = void_note(rows) or ""
        for finding in _findings(store, key, content, rows, weights, data, images):
            findings.append(finding)  # one by one: those before an error count
    except StoreError as error:
        findings.append(Problem(True, str(error)))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # Whoever edits files by hand leaves them in any shape.
        text = f"cell.json or outcomes.parquet is malformed ({type(error).__name__}: {error})"
        findings.append(Problem(True, text))
    return CheckedCell(key, title, tuple(findings), all(images), void)


def _findings(
    store: Store,
    key: str,
    content: dict[str, Any],
    rows: pd.DataFrame,
    weights: Weights,
    data: Data,
    images: list[bool],
) -> Iterator[Problem]:
    asked = measured(content)
    found = digest_of(asked)
    if found != key:
        yield Problem(True, f"cell.json hashes to {found}, the folder is named {key}")
    if malformed := fault_of_keys(content):
        yield Problem(True, malformed)
        return
    yield from _known_weights(content, weights)
    about = read_json(store.cell(key) / "provenance.json")
    yield from _provenance(about)
    for text in changed(store.cell(key), content, about):
        yield Problem(True, text)
    for text in changed_images(store, _proposal_key(asked), about):
        yield Problem(True, text)
    yield from _votes(content, rows)
    index = rows["index"].to_numpy(np.int64)
    expected = _expected(store, content)
    if expected is None:
        yield Problem(False, "rows: a cell named in 'after' is not there")
    elif not np.array_equal(index, expected):
        what = "the survivors of 'after'" if content.get("after") else "the first n images"
        yield Problem(True, f"rows are not {what}, once each and in order")
    pixels = data[_dataset(content)]
    changed_since = pixels is not None and pixels.digest != content["data"]
    if pixels is None or (changed_since and content.get(SOURCES)):  # a file of the user's own
        images.append(False)
        what = "has changed since" if changed_since else "is not at hand"
        yield Problem(False, f"labels and images: {_dataset(content)} {what}")
        return
    if changed_since:
        yield Problem(True, f"the data set {content['dataset']} at hand has another digest")
    if len(index) and not (index.min() >= 0 and index.max() < len(pixels)):
        yield Problem(True, "rows name images that the test set does not have")
        return
    other = rows["label"].to_numpy() != pixels.y.numpy()[index]
    if other.any():
        yield Problem(True, f"label of {_which(other, index)} is not the test set's")
    yield from _geometry(store, asked, rows, pixels, images)


def _expected(store: Store, content: Mapping[str, Any]) -> Array | None:
    """List the images that a cell has to have rows of; None where that cannot be told."""
    left = np.arange(content["n"])
    for key in content.get("after", ()):
        if not store.outcomes(key).is_file():
            return None
        rows = unchecked_rows(store.outcomes(key))
        left = np.intersect1d(left, rows["index"][rows["robust"]].to_numpy())
    return left


def _geometry(
    store: Store, asked: dict[str, Any], rows: pd.DataFrame, pixels: Pixels, there: list[bool]
) -> Iterator[Problem]:
    """Measure the stored images again, block by block."""
    index, missing = rows["index"].to_numpy(np.int64), 0
    radius = math.inf if asked["eps"] == "inf" else float(Fraction(asked["eps"]))
    said, legal = rows["distance"].to_numpy(float), rows["legal"].to_numpy(bool)
    if (far := legal & ~(said <= radius + _TOLERANCE)).any():
        yield Problem(True, f"{_which(far, index)} is said to be legal beyond eps")
    wrong = {"distance": np.zeros(len(rows), bool), "legal": np.zeros(len(rows), bool)}
    key, n, size = _proposal_key(asked), asked["n"], asked["shard"]
    for start in range(0, n, size):
        stop = min(start + size, n)
        here = np.flatnonzero((index >= start) & (index < stop))
        if not len(here):
            continue
        path = store.proposal(key, start, stop)
        there.append(path.is_file())
        if not path.is_file():
            missing += 1
            continue
        try:
            x_adv = load_file(path)["x_adv"].astype(np.float32)
        except (OSError, SafetensorError, KeyError) as error:
            yield Problem(True, f"images {path.name} cannot be read ({error})")
            continue
        shown = pixels.x[start:stop].numpy()[index[here] - start]
        x = shown.astype(np.float32) / np.float32(pixels.top)
        if len(x_adv) == stop - start:
            x_adv = x_adv[index[here] - start]
        if x_adv.shape != x.shape:
            yield Problem(True, f"images {path.name} have shape {x_adv.shape}, not {x.shape}")
            continue
        if bits := asked.get("bits"):
            x_adv = _rounded(x_adv, x, bits)
        distance = _distance(x_adv, x, asked["norm"])
        box = ((x_adv >= 0) & (x_adv <= 1)).reshape(len(x), -1).all(1)
        slack = 1e-6 if bits else 1e-12
        wrong["distance"][here] = ~np.isclose(
            said[here], distance, rtol=1e-9, atol=slack, equal_nan=True
        )
        wrong["legal"][here] = legal[here] != (box & (distance <= radius + _TOLERANCE))
    for name, where in wrong.items():
        if where.any():
            yield Problem(True, f"'{name}' of {_which(where, index)} is not the stored image's")
    if missing:
        yield Problem(False, f"distance and legality: images of {missing} of {len(there)} "
                             "blocks are not there")  # fmt: skip


def _proposal_key(asked: Mapping[str, Any]) -> str:
    """Hash what the attack's images depend on."""
    if asked.get("images"):
        return str(asked["images"])
    blind = {"draws", "n", "sequential", "bits"}
    if asked["access"] == "transfer":
        blind.add("defense")
    return digest_of({name: value for name, value in asked.items() if name not in blind})


def _distance(x_adv: Array, x: Array, norm: str) -> Array:
    delta = (x_adv.astype(np.float64) - x.astype(np.float64)).reshape(len(x), -1)
    if norm == "Linf":
        return np.asarray(np.abs(delta).max(1))
    return np.asarray(np.sqrt((delta**2).sum(1)))


def _rounded(x_adv: Array, x: Array, bits: int) -> Array:
    """Try both neighbouring levels and take the nearer one that is not farther from x."""
    top = 2**bits - 1
    seen, clean = x_adv.astype(np.float64), x.astype(np.float64)
    levels = np.stack([np.floor(seen * top), np.ceil(seen * top)])
    away = np.abs(levels - seen * top)
    away[:, away[0] == away[1]] = 0.5  # a tie goes to the even level
    away -= 1e-9 * ((away == 0.5) & (levels % 2 == 0))
    pixels = (levels / top).astype(np.float32)
    allowed = np.abs(pixels.astype(np.float64) - clean) <= np.abs(seen - clean) + _ULP
    allowed |= ~allowed.any(0)
    best = np.where(allowed, away, np.inf).argmin(0)
    return np.asarray(np.take_along_axis(pixels, best[None], 0)[0])


def _votes(content: Mapping[str, Any], rows: pd.DataFrame) -> Iterator[Problem]:
    """Check that votes are complete and that the verdicts follow from them."""
    index, label = rows["index"].to_numpy(), rows["label"].to_numpy(np.int64)
    if rows.empty:  # nothing survived the cells in 'after'
        return
    won = {}
    least, most = _draws(content)
    for name in ("clean_votes", "votes"):
        votes = np.stack(list(rows[name])).astype(np.int64)
        total = votes.sum(1)
        short = (votes < 0).any(1) | (total < least) | (total > most)
        if short.any():
            wanted = str(most) if least == most else f"{least} to {most}"
            yield Problem(True, f"'{name}' of {_which(short, index)} do not sum to {wanted}")
        others = votes.copy()
        others[np.arange(len(rows)), label] = -1
        won[name] = votes[np.arange(len(rows)), label] > others.max(1)  # a tie is a loss
    clean, robust = rows["clean"].to_numpy(bool), rows["robust"].to_numpy(bool)
    if (odd := clean != won["clean_votes"]).any():
        yield Problem(True, f"'clean' of {_which(odd, index)} does not follow from the votes")
    if (odd := robust != (clean & (won["votes"] | ~rows["legal"].to_numpy(bool)))).any():
        yield Problem(True, f"'robust' of {_which(odd, index)} does not follow from the votes")


def _draws(content: Mapping[str, Any]) -> tuple[int, int]:
    """Return how few and how many votes an image may have."""
    draws, part = content["draws"], content["defense"]
    if content.get("sequential") or parsed(part["name"]):
        return 1, draws  # of a defense in a file it was measured
    try:  # its parameters decide whether a defense draws at all
        plugin = build("defenses", part["name"], part["params"])
    except BenchError:  # not installed here: both are possible
        return 1, draws
    if hasattr(plugin, "thing") or source_of(plugin) != part.get("source"):
        return 1, draws  # of a function it was measured too; another source may draw or not
    return (draws, draws) if plugin.stochastic else (1, 1)


def _known_weights(content: Mapping[str, Any], weights: Weights) -> Iterator[Problem]:
    kinds: tuple[tuple[str, Kind], ...] = (
        ("classifier", "classifiers"),
        ("defense", "defenses"),
    )
    for part, kind in kinds:
        wanted = content[part]["checkpoint"]
        if wanted in weights.damaged:
            yield Problem(True, f"checkpoint {weights.damaged[wanted]} was changed")
        elif wanted is None or wanted in weights.present:
            continue
        elif _has_own_weights(kind, content[part]):
            name = content[part]["name"]
            yield Problem(
                False,
                f"the {part}'s weights {wanted[:16]} come with {name}, which only "
                "--votes loads",
                until_loaded=True,
            )
        else:
            yield Problem(False, f"the {part}'s checkpoint {wanted[:16]} is not there")


def _has_own_weights(kind: Kind, part: Mapping[str, Any]) -> bool:
    """Whether a plugin comes with its weights, so that no checkpoint can be expected."""
    if parsed(part["name"]):
        return True  # a user's file is not run here
    try:
        return not isinstance(build(kind, part["name"], part["params"]), Trainable)
    except BenchError:  # not installed here
        return False


def _weights(store: Store) -> Weights:
    present, damaged = set(), {}
    for path in store.checkpoints():
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        present.add(found)
        try:
            card = read_json(path.with_suffix(".json"))
        except StoreError:
            continue  # nothing is said that could be contradicted
        if card.get("sha256", found) != found:
            damaged[str(card["sha256"])] = path.name
        elif not is_card_of(card, path):  # two trainings were exchanged, with their cards
            damaged[found] = path.name
    return Weights(frozenset(present), damaged)


def _provenance(about: Mapping[str, Any]) -> Iterator[Problem]:
    lacking = [name for name in ("date", "command", "versions", "attack passes",
                                 "judge passes") if about.get(name) in (None, "")]  # fmt: skip
    if lacking:
        yield Problem(True, f"provenance.json lacks {', '.join(lacking)}")


def _which(where: Array, index: Array) -> str:
    """Name images in words."""
    chosen = index[where]
    names = ", ".join(str(name) for name in chosen[:_SHOWN])
    if len(chosen) == 1:
        return f"image {names}"
    return f"{len(chosen)} images ({names}{', ...' if len(chosen) > _SHOWN else ''})"
