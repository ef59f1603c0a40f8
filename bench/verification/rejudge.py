"""Judge stored images again: other draws, rounded pixels, another defense. Attacks nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from torch import Tensor

from bench.core.protocols import Calls, View
from bench.core.threat import Access, Norm, ThreatModel
from bench.errors import CheckpointError, DataError, StoreError, UsageError
from bench.evaluation.run import Prepared, run_cell
from bench.experiments.found_again import found_again
from bench.experiments.prepare import outline, prepare, resolve
from bench.plugins.names import portable
from bench.results.cell import Cell, Part, Request
from bench.results.compare import complete_key
from bench.results.digests import MALFORMED, fault_of_keys
from bench.results.failures import no_row_without_a_shard
from bench.results.files import read_json
from bench.results.progress import Work
from bench.results.settings import Settings
from bench.results.so_far import with_accuracy
from bench.results.stats import mcnemar, paired_interval
from bench.results.store import Store, read_rows
from bench.results.workspace import Workspace


@dataclass(frozen=True)
class Change:
    """How verdicts on the same images changed: robust to broken, broken to robust, and p.

    ``low`` and ``high`` bound the change of accuracy in points (95 %); ``p`` is McNemar's
    exact one: that changes in both directions are equally likely.
    """

    images: int
    lost: int
    gained: int
    low: float
    high: float
    p: float

    @property
    def points(self) -> float:
        """The change of robust accuracy in points."""
        return 100 * (self.gained - self.lost) / max(self.images, 1)


@dataclass(frozen=True)
class StoredImages:
    """Stands where the attack was: all images are there already."""

    missing: str  # what to say where one is not
    revision: ClassVar[int] = 1
    norms: ClassVar[tuple[Norm, ...]] = tuple(Norm)
    accesses: ClassVar[tuple[Access, ...]] = tuple(Access)
    unbounded: ClassVar[bool] = True

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: object
    ) -> Tensor:
        """Refuse: raises StoreError."""
        raise StoreError(self.missing)

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Cost nothing."""
        return Calls()


def find_key(store: Store, prefix: str) -> str:
    """Complete the first 4 or more characters of a finished cell's key; raises UsageError."""
    key = complete_key(store.keys(), prefix)
    if not store.outcomes(key).is_file():
        raise UsageError(
            f"cell {key} is not finished: it has nothing to judge again. Run its command to "
            "its end first."
        )
    return key


def read_cell(store: Store, key: str) -> Cell:
    """Read a cell back; raises StoreError where it is not what its key says."""
    path = store.cell(key) / "cell.json"
    content = read_json(path)
    try:
        if malformed := fault_of_keys(content):
            raise ValueError(malformed)
        cell = Cell.read(content)
        found = cell.key()
    except (*MALFORMED, UsageError) as error:
        raise StoreError(f"{path} is not what bench wrote ({error}).") from error
    if found != key:
        raise StoreError(f"{path} was changed: it hashes to {found}. See `bench verify`.")
    return cell


def rebuild(
    cell: Cell,
    *,
    workspace: Workspace,
    defense: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> Work[Prepared]:
    """Load what a cell was measured with, or another defense in place of its own.

    Raises CheckpointError where the same classifier and defense are not available, and
    DataError where the data set is not the same.
    """
    plugins = resolve(_request(cell, workspace.store, defense, params))
    here, _ = outline(plugins, workspace)
    if here.data != cell.data:
        raise DataError(
            f"the data set {cell.dataset} is not the one that was measured: its digest is "
            f"{here.data[:16]}, not {cell.data[:16]}. {_where(cell)}"
        )
    _require(cell.classifier, here.classifier)
    if defense is None:
        _require(cell.defense, here.defense)
    prepared = yield from prepare(plugins, workspace=workspace)
    _require(cell.classifier, prepared.cell.classifier)
    if defense is None:
        _require(cell.defense, prepared.cell.defense)
    return replace(
        prepared,
        cell=replace(cell, defense=prepared.cell.defense),
        attack=StoredImages(_missing(workspace.store, cell)),
    )


def _request(
    cell: Cell, store: Store, defense: str | None, params: Mapping[str, Any] | None
) -> Request:
    parts = ("classifier",) if defense else ("classifier", "defense")
    asked = found_again(cell, store, parts=parts)
    # Nothing is attacked: whatever made the images need not be here any more.
    settings = {**asked.settings, "attack": {}}
    if defense is not None:
        settings["defense"] = params or {}
    return replace(asked, defense=defense or asked.defense, attack="noise", settings=settings)


def _where(cell: Cell) -> str:
    if source := cell.sources.get("dataset"):
        return f"Restore {source}, or run the command in a folder that has it."
    return "Name its folder with --data."


def _require(wanted: Part, here: Part) -> None:
    """Raise CheckpointError unless the part found here is the one that was measured."""
    if here == wanted:
        return
    if here.source != wanted.source:
        what = f"the source of {wanted.name} is another one here"
    elif here.revision != wanted.revision:
        what = f"{wanted.name} is at revision {here.revision} here, not {wanted.revision}"
    elif dict(here.params) != dict(wanted.params):
        what = f"{wanted.name} has other parameters here, such as new ones with defaults"
    else:
        found = (here.checkpoint or "none")[:16]
        wants = (wanted.checkpoint or "none")[:16]
        what = f"the checkpoint of {wanted.name} at hand is {found}, not {wants}"
    raise CheckpointError(
        f"{what}: the cell was measured with something else. Restore that version or file, or "
        "measure a new cell with `bench run`."
    )


def _missing(store: Store, cell: Cell) -> str:
    folder = store.proposal(cell.proposal_key(), 0, 0).parent
    path = store.cell(cell.key()) / "provenance.json"
    command = read_json(path).get("command") if path.is_file() else None
    return (
        f"the images of cell {cell.key()} are not all in {folder}: they are not tracked in "
        "git. Copy that folder from where the cell was made, or move the cell's folder away "
        f"and make them again with its command: {command or 'bench run ...'}"
    )


def rejudge(
    key: str,
    *,
    workspace: Workspace,
    draws: int | None = None,
    bits: int | None = None,
    defense: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> Work[str]:
    """Judge the images of a finished cell again and return the key of the new cell."""
    if draws is None and bits is None and defense is None:
        raise UsageError("give what to change: --draws, --bits or --defense.")
    if draws is not None and draws < 1:
        raise UsageError(f"draws is {draws}: it has to be 1 or more.")
    if bits is not None and not 1 <= bits <= 16:
        raise UsageError(f"bits is {bits}: it has to be 1 to 16; images commonly have 8.")
    store = workspace.store
    cell = read_cell(store, key)
    if defense is not None and cell.after:
        raise UsageError(
            f"cell {key} attacked only what others left of its own defense: another one has to "
            "be judged on all images. Name a cell that attacked all of them."
        )
    if read_rows(store.outcomes(key)).empty:
        raise UsageError(f"cell {key} has no images: cheaper attacks left it none to attack.")
    if not _complete(store, cell):
        raise StoreError(_missing(store, cell))
    store.probe()
    prepared = yield from rebuild(cell, workspace=workspace, defense=defense, params=params)
    new = replace(prepared.cell, draws=draws or cell.draws, bits=bits or cell.bits)
    if new.proposal_key() != cell.proposal_key():
        # Otherwise it is an ordinary cell: what `bench run` judges on the same images.
        new = replace(new, images=cell.proposal_key())
    if new.key() == key:
        raise UsageError(f"cell {key} is judged in that way already: nothing would change.")
    settings = Settings.read(read_json(store.cell(key) / "cell.json"))
    pairs, before = settings.pairs, _notes(store, cell)
    names = dict(settings.names)
    if defense is not None:
        own = Settings.of({"defense": params or {}})
        pairs = (*settings.without("defense").pairs, *own.pairs)
        names.pop("defense", None)
        names |= {"defense": text} if (text := portable(defense)) else {}
    notes = [note for note in settings.notes if note not in before]
    settings = Settings(pairs, (*notes, *_notes(store, new)), tuple(names.items()))
    with no_row_without_a_shard(store, new):
        work = run_cell(replace(prepared, cell=new), workspace=workspace, settings=settings)
        yield from with_accuracy(work, new, store=store)
    return new.key()


def _complete(store: Store, cell: Cell) -> bool:
    """Whether the images of every row are there."""
    index = read_rows(store.outcomes(cell.key()))["index"]
    return all(
        store.proposal(cell.proposal_key(), start, stop).is_file()
        for start, stop in cell.shards()
        if ((index >= start) & (index < stop)).any()
    )


def _notes(store: Store, cell: Cell) -> list[str]:
    """Return in words what is special about a cell judged on another one's images."""
    said = []
    if cell.images and cell.threat.access is not Access.TRANSFER:  # those are nobody's
        made_on = _origin(store, cell.images)
        if made_on is None or made_on != cell.defense:
            said.append(f"images of {made_on.name if made_on else cell.images}")
    if cell.bits:
        said.append(f"{cell.bits} bits")
    return said


def _origin(store: Store, images: str) -> Part | None:
    """Find the defense that stored images were made against, by their proposal key."""
    for key in store.finished():
        try:
            cell = read_cell(store, key)
        except StoreError:
            continue
        if cell.images is None and cell.proposal_key() == images:
            return cell.defense
    return None


def repeat(cell: Cell, *, workspace: Workspace) -> Work[pd.DataFrame]:
    """Judge a finished cell once more as it was, and return the rows without storing them."""
    store, key = workspace.store, cell.key()
    if not _complete(store, cell):
        raise StoreError(_missing(store, cell))
    prepared = yield from rebuild(cell, workspace=workspace)
    with tempfile.TemporaryDirectory() as folder:
        again = Store(Path(folder))
        images = again.proposal(cell.proposal_key(), 0, 0).parent
        images.parent.mkdir()
        images.symlink_to(store.proposal(cell.proposal_key(), 0, 0).parent.resolve())
        for earlier in cell.after:
            again.cell(earlier).parent.mkdir(exist_ok=True)
            again.cell(earlier).symlink_to(store.cell(earlier).resolve())
        yield from run_cell(prepared, workspace=replace(workspace, store=again))
        return read_rows(again.outcomes(key))


def count_changes(old: pd.DataFrame, new: pd.DataFrame) -> Change:
    """Count the verdicts that differ between two cells on the same images."""
    before, after = (frame.set_index("index")["robust"] for frame in (old, new))
    both = pd.DataFrame({"before": before, "after": after.reindex(before.index)}).dropna()
    was, now = both["before"].astype(bool), both["after"].astype(bool)
    lost, gained = int((was & ~now).sum()), int((~was & now).sum())
    low, high = (100 * side for side in paired_interval(gained, lost, len(both)))
    return Change(len(both), lost, gained, low, high, mcnemar(lost, gained))
