"""Attacks against published networks with proofs of what can be broken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.calibration.known import KNOWN, Chosen, Opened, ProvenNetwork, opened, some
from bench.calibration.linear_bounds import certified
from bench.core.defense import Defense
from bench.core.networks import digest_of_weights
from bench.core.protocols import Attack, Calls
from bench.core.threat import Norm, ThreatModel, format_eps
from bench.errors import CheckpointError, DataError
from bench.evaluation.run import Prepared, run_cell
from bench.plugins.catalogue import build, parameters
from bench.plugins.names import kept
from bench.plugins.sources import source_of
from bench.results.cell import Cell, Part
from bench.results.files import read_json, write_json
from bench.results.progress import Progress, Work
from bench.results.so_far import with_accuracy
from bench.results.store import Store, read_rows
from bench.results.workspace import Workspace

SEED = 0
ATTACKS = ("autoattack", "apgd", "apgd_t", "pgd", "square")
SIGMA = 0.05
# Noise of which the networks hardly err more, and no two draws of a gradient are alike.
DEFENSES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("none", {}),
    ("gaussian", {"sigma": SIGMA}),
)
TOGETHER = "all of these"
_DRAWS = 50  # of the judge
_SHARD = 500
_CHEAP = 100  # passes an image up to which an attack sees certified images too
_BEARABLE = 1500  # passes up to which it sees undecided ones
_BEHIND_NOISE = 100  # images at most, of which every gradient takes many draws
_BLOCK = 500  # images certified between two saves


@dataclass(frozen=True)
class Row:
    """One attack, or all together, on one network behind one defense, in images.

    ``images`` of which ``attacked`` were given to the attack: the others are certified, and
    count as right. ``broken``: those that did not stay right, ``found`` and ``breakable``:
    provably breakable ones that were right before, ``undecided``: broken of those listed so.
    ``least`` and ``most`` can be broken, as is proven; None where the proof says nothing.
    ``fault`` says what cannot be, ``missing`` why there is no number.
    """

    network: str
    eps: str
    defense: str
    attack: str
    access: str = ""
    images: int = 0
    attacked: int = 0
    broken: int = 0
    least: int | None = None
    most: int | None = None
    found: int | None = None
    breakable: int | None = None
    undecided: int | None = None
    passes: int = 0
    fault: str = ""
    missing: str = ""

    @property
    def gap(self) -> float | None:
        """Points of error by which it stays below what is proven, None where nothing is."""
        if self.least is None or self.found is None or self.breakable is None:
            return None
        return 100 * (self.breakable - self.found) / self.images


@dataclass(frozen=True)
class Facts:
    """What there was to find on one network: counts, digests, and images nobody breaks."""

    name: str
    images: int
    wrong: int
    certified: int | None
    weights: str
    data: str
    unbroken: tuple[int, ...] = ()  # provably breakable, and no attack here breaks them


def measure(
    *,
    weights: Path,
    workspace: Workspace,
    names: Sequence[str] | None = None,
    known: Sequence[ProvenNetwork] | None = None,
) -> Work[tuple[list[Row], list[Facts]]]:
    """Hold attacks against every known network whose files are there.

    ``weights``: the folder of the files; those that it lacks are downloaded.
    """
    known = known or KNOWN
    store = Store(workspace.store.root / "calibration")
    store.probe()
    inner = replace(workspace, store=store)
    rows: list[Row] = []
    facts: list[Facts] = []
    for one in known:
        try:
            network = opened(one, weights=weights, data=workspace.data, device=workspace.device)
        except (CheckpointError, DataError) as error:
            rows.append(Row(one.name, format_eps(one.eps), "", "", missing=str(error)))
            continue
        found, about = yield from _network(network, inner, names or ATTACKS)
        rows += found
        facts.append(about)
    return rows, facts


def _network(
    network: Opened, workspace: Workspace, names: Sequence[str]
) -> Work[tuple[list[Row], Facts]]:
    safe: frozenset[int] = frozenset()
    if network.known.error is not None:
        safe = yield from _certified(network, workspace)
    rows: list[Row] = []
    # What an attack breaks is proven to be breakable as well.
    shown, unbroken = network.breakable, network.breakable
    for defense, params in DEFENSES:
        purifier = build("defenses", defense, params)
        parts = []
        if purifier.stochastic and not shown:
            continue
        for name in names:
            attack: Attack = build("attacks", name, {})
            numbers = shown if purifier.stochastic else _numbers(network, safe, attack)
            prepared = _prepared(network, numbers, (defense, purifier), (name, attack))
            parts.append((yield from _attacked(prepared, name, workspace)))
        bare = not purifier.stochastic
        whole = _union(parts)
        told = [*parts, whole] if len(parts) > 1 else parts
        rows += [_row(network, safe, bare, part, shown) for part in told]
        if bare:
            unbroken -= whole.broken
            found = sorted(network.breakable or whole.broken - network.wrong)
            shown = frozenset(found[:_BEHIND_NOISE])
    count = len(safe) if network.known.error is not None else None
    return rows, Facts(
        network.known.name, len(network.pixels), len(network.wrong), count,
        network.known.weights.sha256, network.pixels.digest, tuple(sorted(unbroken)),
    )  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """What one attack did: the images it was given, those broken, and those not legal."""

    defense: str
    attack: str
    access: str
    given: frozenset[int]
    broken: frozenset[int]
    illegal: frozenset[int]
    passes: int


def _attacked(prepared: Prepared, name: str, workspace: Workspace) -> Work[_Part]:
    """Run a cell by the harness's own path, and read the verdicts; ``name`` is its attack's."""
    store, key = workspace.store, prepared.cell.key()
    work = run_cell(prepared, workspace=workspace)
    yield from with_accuracy(work, prepared.cell, store=store)
    frame = read_rows(store.outcomes(key))
    index = frame["index"].to_numpy(np.int64)
    passes = read_json(store.cell(key) / "provenance.json")["attack passes"]
    return _Part(
        defense=prepared.cell.defense.name,
        attack=name,
        access=prepared.cell.threat.access.value,
        given=frozenset(index.tolist()),
        broken=frozenset(index[~frame["robust"].to_numpy(bool)].tolist()),
        illegal=frozenset(index[~frame["legal"].to_numpy(bool)].tolist()),
        passes=round(sum(passes.values()) / len(index)),
    )


def _numbers(network: Opened, safe: frozenset[int], attack: Attack) -> Iterable[int]:
    """Choose the images of the bare network whose answers are worth an attack's passes."""
    calls = attack.calls(stochastic=False, classes=10) or Calls()
    passes = calls.forward + calls.backward
    if network.known.error is None:
        undecided = network.undecided if passes <= _BEARABLE else frozenset()
        return network.breakable | undecided
    everything = range(len(network.pixels))
    return everything if passes <= _CHEAP else frozenset(everything) - safe


def _prepared(
    network: Opened,
    numbers: Iterable[int],
    defense: tuple[str, Any],
    attack: tuple[str, Attack],
) -> Prepared:
    """Make the cell of a named defense and a named attack on images by number."""
    (defense_name, purifier), (attack_name, attacker) = defense, attack
    known, pixels = network.known, Chosen.of(network.pixels, numbers)
    cell = Cell(
        dataset=known.dataset,
        data=pixels.digest,
        n=len(pixels),
        shard=_SHARD,
        classifier=Part(known.name, {}, 1, digest_of_weights(network.net)),
        defense=Part(defense_name, parameters(purifier), purifier.revision),
        attack=Part(
            kept(attack_name), parameters(attacker), attacker.revision,
            digest_of_weights(attacker), source_of(attacker),
        ),
        threat=ThreatModel(Norm.LINF, known.eps, attacker.accesses[0]),
        seed=SEED,
        draws=_DRAWS,
    )  # fmt: skip
    device = next(network.net.parameters()).device
    whole = Defense(purifier, network.net, seed=SEED).to(device)
    return Prepared(cell, whole, attacker, pixels)


def _union(parts: Sequence[_Part]) -> _Part:
    """Join attacks image by image."""
    broken, illegal, given = (
        frozenset[int]().union(*(getattr(part, name) for part in parts))
        for name in ("broken", "illegal", "given")
    )
    return _Part(
        parts[0].defense, TOGETHER, "", given, broken, illegal,
        sum(part.passes for part in parts),
    )  # fmt: skip


def _row(
    network: Opened, safe: frozenset[int], bare: bool, part: _Part, shown: frozenset[int]
) -> Row:
    """Count what an attack broke; where the network is bare, hold it against the proof."""
    known, faults = network.known, list(network.contradictions)
    row = Row(
        known.name, format_eps(known.eps), part.defense, part.attack, part.access,
        images=len(part.given), attacked=len(part.given), broken=len(part.broken),
        passes=part.passes,
    )  # fmt: skip
    if not bare:
        row = replace(row, found=len(part.broken), breakable=len(shown))
    elif known.error is None:
        row = replace(
            row,
            found=len(part.broken & network.breakable),
            breakable=len(network.breakable),
            undecided=len(part.broken & network.undecided),
            least=len(network.breakable),
            most=len(part.given),
        )
    else:
        row = replace(
            row,
            images=len(network.pixels),
            found=len(part.broken - network.wrong),
            breakable=known.error - len(network.wrong),
            least=known.error,
            most=known.error,
        )
        if len(network.pixels) - len(safe) < known.error:
            faults.append(
                f"{len(safe)} images are certified, and no more than "
                f"{len(network.pixels) - known.error} can be"
            )
        if part.broken & safe:
            faults.append(f"images {some(part.broken & safe)} break and are certified")
    if row.most is not None and row.broken > row.most:
        faults.append(f"{row.broken} images break where at most {row.most} can")
    if part.illegal:
        faults.append(f"{len(part.illegal)} images outside ball or box")
    return replace(row, fault="; ".join(faults))


def _certified(network: Opened, workspace: Workspace) -> Work[frozenset[int]]:
    """Certify what linear bounds can, block by block; what is done is kept."""
    known, images = network.known, len(network.pixels)
    digest = digest_of_weights(network.net)
    path = workspace.store.root / "certified" / f"{known.name}-{str(digest)[:16]}.json"
    asked = {"eps": str(known.eps), "data": network.pixels.digest, "weights": digest}
    kept = read_json(path) if path.is_file() else {}
    blocks: dict[str, list[int]] = kept["blocks"] if kept.get("asked") == asked else {}
    device, what = workspace.device, f"{known.name}: certificates"
    for start in range(0, images, _BLOCK):
        yield Progress(what, start, images, unit="images")
        if str(start) in blocks:
            continue
        block = network.pixels.images(start, min(start + _BLOCK, images)).to(device)
        proven = certified(network.net, block.x, block.y, float(known.eps))
        blocks[str(start)] = block.indices[proven].tolist()
        write_json(path, {"asked": asked, "blocks": blocks})
    yield Progress(what, images, images, unit="images")
    return frozenset(number for found in blocks.values() for number in found)


def failures(rows: Sequence[Row]) -> list[str]:
    """Name what cannot be, and what could not be measured, one line each."""
    return [
        f"{row.network}: {row.missing}"
        if row.missing
        else f"{row.attack} on {row.network} behind {row.defense}: {row.fault}: a bug of bench "
        "or another network"
        for row in rows
        if row.fault or row.missing
    ]
