"""What a reviewer's machine says of a deposit: what follows from it, and votes of a sample."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.deposits.archive import opened
from bench.deposits.same_votes import too_many
from bench.deposits.sample import Judged, judged_again, named
from bench.deposits.unpack import Deposit, unpack
from bench.errors import BenchError, StoreError, UsageError
from bench.evaluation.run import Prepared
from bench.results.cell import Cell, digest_of
from bench.results.files import read_json
from bench.results.progress import Progress, Work
from bench.results.store import Store, unchecked_rows
from bench.results.workspace import Workspace
from bench.verification.problem import Problem
from bench.verification.recompute import CheckedCell, verify
from bench.verification.rejudge import read_cell, rebuild

SAMPLE = 50
_SEEDS = 2**31


@dataclass(frozen=True)
class Checked:
    """A deposit that was checked: its cells, and how many of its images were judged again.

    ``moved`` images have other votes, by rounding or not. ``notes`` could not be checked.
    """

    path: str
    sha256: str
    images: bool
    seed: int
    rows: int
    sample: int
    judged: int
    moved: int
    cells: tuple[CheckedCell, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Say match, mismatch or cannot be checked."""
        if any(cell.wrong for cell in self.cells):
            return "mismatch"
        unchecked = self.notes or any(cell.unchecked for cell in self.cells)
        return "cannot be checked" if unchecked or self.judged < self.sample else "match"


def check(
    path: Path, *, sample: int, seed: int | None, checkpoints: Store, workspace: Workspace
) -> Work[Checked]:
    """Check a deposit; raises StoreError where it is not what was written, UsageError.

    ``sample`` images, drawn by ``seed``, are judged again with the ``checkpoints`` of a results
    folder; None draws others each time.
    """
    if sample < 1:
        raise UsageError(f"sample is {sample}: it has to be 1 or more.")
    seed = secrets.randbelow(_SEEDS) if seed is None else seed
    if not 0 <= seed < _SEEDS:
        raise UsageError(f"seed is {seed}: it has to be 0 to {_SEEDS - 1}.")
    archive = opened(path)
    with tempfile.TemporaryDirectory(prefix="bench-deposit-") as folder:
        deposit = unpack(archive, Path(folder))
        notes = list(_linked(deposit, checkpoints))
        workspace = replace(workspace, store=deposit.store)
        report = yield from verify(deposit.store, data=workspace.data)
        notes += [finding.text for finding in report.folder]
        drawn, rows = _drawn(deposit, sample, seed)
        wrong = {cell.key for cell in report.cells if cell.wrong}
        asked = {key: places for key, places in drawn.items() if key not in wrong}
        found: dict[str, Judged] = {}
        cells = yield from _with_votes(deposit, report.cells, asked, workspace, found)
        return Checked(
            path=str(path),
            sha256=archive.sha256,
            images=deposit.images,
            seed=seed,
            rows=rows,
            sample=sum(map(len, drawn.values())),
            judged=sum(one.images for one in found.values()),
            moved=sum(len(one.moved) for one in found.values()),
            cells=cells,
            notes=tuple(notes),
        )


def _linked(deposit: Deposit, checkpoints: Store) -> Iterator[str]:
    """Put the checkpoints that the cells name beside them; name those that are damaged."""
    wanted = set()
    for key in deposit.keys:
        content = read_json(deposit.store.cell(key) / "cell.json")
        wanted |= {str(content[part]["checkpoint"]) for part in ("classifier", "defense")}
    for path in checkpoints.checkpoints():
        card = path.with_suffix(".json")
        try:
            said = read_json(card).get("sha256")
        except StoreError:
            continue  # what has no card is not loaded
        if said not in wanted:
            continue
        if hashlib.sha256(path.read_bytes()).hexdigest() != said:
            yield f"the checkpoint {path} is not what its card says: restore it"
            continue
        for file in (path, card):
            link = deposit.store.root / "checkpoints" / path.parent.name / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())


def _drawn(deposit: Deposit, sample: int, seed: int) -> tuple[dict[str, list[int]], int]:
    """Draw rows of all cells without putting back: their places by cell, and how many are."""
    places = [
        (key, place)
        for key in deposit.keys
        for place in range(len(unchecked_rows(deposit.store.outcomes(key))))
    ]
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(places), size=min(sample, len(places)), replace=False)
    drawn: dict[str, list[int]] = {}
    for number in sorted(chosen.tolist()):
        key, place = places[number]
        drawn.setdefault(key, []).append(place)
    return drawn, len(places)


def _with_votes(
    deposit: Deposit,
    cells: tuple[CheckedCell, ...],
    drawn: dict[str, list[int]],
    workspace: Workspace,
    found: dict[str, Judged],
) -> Work[tuple[CheckedCell, ...]]:
    """Judge the rows drawn again, fill ``found`` by cell, add to the cells what differs."""
    loaded: dict[str, Prepared] = {}
    more: dict[str, Problem] = {}
    known: set[str] = set()  # weights that were loaded and are those of the cells
    for done, (key, places) in enumerate(drawn.items()):
        yield Progress("votes", done, len(drawn))
        try:
            cell = read_cell(deposit.store, key)
            same = digest_of({**_loads(cell), "n": cell.n, "seed": cell.seed})
            if same not in loaded:
                loaded[same] = yield from rebuild(cell, workspace=workspace)
            known.add(digest_of(_loads(cell)))
            prepared = replace(loaded[same], cell=cell)
            found[key] = judged_again(prepared, places, deposit, workspace.device)
        except BenchError as error:
            more[key] = Problem(False, f"votes of {len(places)} images: {error}")
        else:
            if problem := found[key].problem:
                more[key] = problem
    if drawn:
        yield Progress("votes", len(drawn), len(drawn))
    moved = {key: one.moved for key, one in found.items() if one.moved}
    if too_many(sum(map(len, moved.values())), sum(one.images for one in found.values())):
        for key in moved.keys() - more.keys():
            text = f"judged again, votes differ on {named(moved[key])}, more than by rounding"
            more[key] = Problem(True, text)
    return tuple(_finding(one, more.get(one.key), deposit, known) for one in cells)


def _loads(cell: Cell) -> dict[str, object]:
    """Say what is loaded to judge a cell."""
    parts = cell.classifier.canonical(), cell.defense.canonical()
    return {"dataset": cell.dataset, "classifier": parts[0], "defense": parts[1]}


def _finding(
    checked: CheckedCell, problem: Problem | None, deposit: Deposit, known: set[str]
) -> CheckedCell:
    """Add a problem, and drop what was open until the weights were loaded."""
    findings = checked.findings
    if not any(one.wrong for one in findings):
        cell = read_cell(deposit.store, checked.key)
        if digest_of(_loads(cell)) in known:
            findings = tuple(one for one in findings if not one.until_loaded)
    return replace(checked, findings=(*findings, problem) if problem else findings)
