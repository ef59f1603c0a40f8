"""What an attack from outside breaks of the images that a ladder left."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from bench.calibration.outside import Effort, ascend, broken
from bench.core.passes import count_passes
from bench.core.rng import Rng
from bench.core.threat import Norm, format_eps
from bench.errors import UsageError
from bench.evaluation.run import Prepared
from bench.results.cell import Cell, defended_of, digest_of
from bench.results.compare import complete_key
from bench.results.files import read_json, write_json
from bench.results.progress import Progress, Work
from bench.results.settings import Settings
from bench.results.store import Store, read_rows
from bench.results.workspace import Workspace
from bench.verification.rejudge import read_cell, rebuild

LARGEST_SHARE = 1.0  # percent of all images that an attack from outside may still break
EFFORT = Effort()
_SHOWN = 5  # ladders in a message
_BLOCK = 20  # images between two saves
_REVISION = 1  # of the attack from outside: what an older one found is not read


@dataclass(frozen=True)
class Wanted:
    """Which ladder is meant; None and "" leave open. ``cell``: the beginning of a key in it."""

    dataset: str
    defense: str
    eps: Fraction | None
    n: int | None = None
    cell: str | None = None


@dataclass(frozen=True)
class Ladder:
    """All finished cells of one defense, ball and list of images, and what they all left."""

    cells: tuple[Cell, ...]
    survivors: tuple[int, ...]

    @property
    def first(self) -> Cell:
        """A cell of it."""
        return self.cells[0]


@dataclass(frozen=True)
class OutsideResult:
    """What the attack from outside did to a ladder's survivors."""

    dataset: str
    defense: str
    settings: str
    eps: str
    images: int
    attacks: tuple[str, ...]
    cells: tuple[str, ...]
    survivors: int
    broken: tuple[int, ...]
    draws: int
    passes: int
    checkpoints: tuple[str, ...]

    @property
    def share(self) -> float:
        """Percent of all images of the ladder that it broke."""
        return 100 * len(self.broken) / self.images

    @property
    def holds(self) -> bool:
        """Whether the ladder left it little enough."""
        return self.share <= LARGEST_SHARE


def find(wanted: Wanted, store: Store) -> Ladder:
    """Read the cells of a ladder; raises UsageError where there is none, or more than one."""
    if wanted.cell:
        key = complete_key(store.keys(), wanted.cell)
        anchor = defended_of(read_cell(store, key).canonical())
    groups: dict[str, list[Cell]] = {}
    for key in store.finished():
        cell = read_cell(store, key)
        group = defended_of(cell.canonical())
        if (group == anchor) if wanted.cell else _fits(cell, wanted, store):
            groups.setdefault(group, []).append(cell)
    if not groups:
        raise UsageError(
            f"no finished cell of {wanted.defense} on {wanted.dataset} is in {store.root}. Run "
            "the ladder first, or name its folder with --results."
        )
    if len(groups) > 1:
        found = [_named(cells) for cells in groups.values()]
        more = [f"{len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        raise UsageError(
            f"{store.root} has several ladders of {wanted.defense} on {wanted.dataset}: "
            f"{'; '.join([*found[:_SHOWN], *more])}. Give -n, or --cell KEY in place of "
            "--defense."
        )
    (cells,) = groups.values()
    if cells[0].threat.norm is not Norm.LINF or not cells[0].threat.bounded:
        raise UsageError(
            "the attack from outside knows finite Linf balls only. Name a ladder in one."
        )
    return Ladder(tuple(cells), _survivors(cells, store))


def _fits(cell: Cell, wanted: Wanted, store: Store) -> bool:
    """Whether a cell is of the ladder that is meant: its defense as it ships, nothing set."""
    return (
        cell.dataset == wanted.dataset
        and cell.defense.name == wanted.defense
        and cell.threat.norm is Norm.LINF
        and cell.threat.eps == wanted.eps
        and wanted.n in (None, cell.n)
        and not _set(cell, store)
    )


def _named(cells: Sequence[Cell]) -> str:
    """Tell a ladder from others in a few words."""
    first = cells[0]
    words = f"{first.n} images, seed {first.seed}, {first.draws} draws, {len(cells)} cells"
    return f"{first.key()} ({words})"


def _set(cell: Cell, store: Store) -> str:
    """Write what the user set of a cell's defense and classifier."""
    settings = Settings.read(read_json(store.cell(cell.key()) / "cell.json"))
    return str(settings.only("defense", "classifier"))


def _survivors(cells: Sequence[Cell], store: Store) -> tuple[int, ...]:
    """List the images that no cell broke; raises UsageError unless all have been attacked."""
    seen: set[int] = set()
    lost: set[int] = set()
    for cell in cells:
        frame = read_rows(store.outcomes(cell.key()))
        seen |= set(map(int, frame["index"]))
        lost |= set(map(int, frame["index"][~frame["robust"].astype(bool)]))
    if len(seen) < cells[0].n:
        raise UsageError(
            f"the cells in {store.root} attacked {len(seen)} of {cells[0].n} images: the first "
            "cell of the ladder is missing. Run the ladder again."
        )
    return tuple(sorted(seen - lost))


def check(
    ladder: Ladder, *, workspace: Workspace, effort: Effort = EFFORT
) -> Work[OutsideResult]:
    """Attack a ladder's survivors from outside; what is done is kept. Raises BenchError."""
    cell, store = ladder.first, workspace.store
    prepared = yield from rebuild(cell, workspace=workspace)
    asked = {
        "defended": defended_of(cell.canonical()),
        "effort": dataclasses.asdict(effort),
        "revision": _REVISION,
    }
    path = store.root / "calibration" / "outside" / f"{digest_of(asked)}.json"
    saved: dict[str, Any] = read_json(path) if path.is_file() else {**asked, "images": {}}
    done: dict[str, Any] = saved["images"]
    left = [number for number in ladder.survivors if str(number) not in done]
    what = f"{cell.defense.name} from outside"
    for start in range(0, len(left), _BLOCK):
        yield _progress(what, ladder, done)
        done |= _attacked(prepared, left[start : start + _BLOCK], effort, workspace.device)
        write_json(path, saved)
    yield _progress(what, ladder, done)
    found = {number: done[str(number)] for number in ladder.survivors}
    parts = (cell.classifier, cell.defense)
    return OutsideResult(
        dataset=cell.dataset,
        defense=cell.defense.name,
        settings=_set(cell, store),
        eps=format_eps(cell.threat.eps),
        images=cell.n,
        attacks=tuple(sorted({one.attack.name for one in ladder.cells})),
        cells=tuple(one.key() for one in ladder.cells),
        survivors=len(ladder.survivors),
        broken=tuple(number for number, what in found.items() if what["broken"]),
        draws=cell.draws,
        passes=sum(what["passes"] for what in found.values()),
        checkpoints=tuple((part.checkpoint or "none")[:16] for part in parts),
    )


def _progress(what: str, ladder: Ladder, done: dict[str, Any]) -> Progress:
    ready = [done[str(number)] for number in ladder.survivors if str(number) in done]
    figures = {"broken": float(sum(one["broken"] for one in ready))}
    return Progress(what, len(ready), len(ladder.survivors), figures, unit="images")


def _attacked(
    prepared: Prepared, numbers: Sequence[int], effort: Effort, device: torch.device
) -> dict[str, Any]:
    """Attack and judge a block; return for each image whether it broke, and its passes."""
    cell, defense = prepared.cell, prepared.defense
    blocks = [prepared.pixels.images(number, number + 1) for number in numbers]
    x = torch.cat([block.x for block in blocks]).to(device)
    y = torch.cat([block.y for block in blocks]).to(device)
    rng = Rng.seeded(cell.seed, numbers, device=device).fork("outside")
    eps = cell.threat.radius
    with count_passes(defense.networks()) as passes:
        x_adv = ascend(defense, x, y, eps=eps, effort=effort, rng=rng.fork("attack"))
        lost = broken(defense, x, y, x_adv, eps=eps, draws=cell.draws, rng=rng.fork("verdict"))
    each = round(sum(passes.values()) / len(numbers))
    return {
        str(number): {"broken": one, "passes": each}
        for number, one in zip(numbers, lost.tolist(), strict=True)
    }
