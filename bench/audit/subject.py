"""What is audited: a defense, its images, its ball, and the attacks run on it so far."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bench.audit.toys import Untouched
from bench.core.access import view_of
from bench.core.defense import Defense
from bench.core.protocols import Attack, CoarsePurifier, Images, Purifier, View, fits
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.evaluation.run import Prepared, run_cell
from bench.plugins.catalogue import build, parameters
from bench.results.cell import Cell, Part
from bench.results.files import read_json
from bench.results.progress import finish
from bench.results.settings import Settings
from bench.results.store import Store, read_rows
from bench.results.workspace import Workspace

LEVEL = 0.01  # of the paired tests that raise an alarm
_VOTES = 5  # times the draws of a gradient vote on what a targeted ascent found


def _copied(defense: Defense) -> Defense:
    try:
        return copy.deepcopy(defense)
    except Exception:  # a third-party purifier may hold a lock, a file or a server
        return defense


@dataclass(frozen=True)
class Variant:
    """Another defense that a check attacks beside the one under audit; ``label`` names it."""

    label: str
    defense: Defense


@dataclass(frozen=True)
class Run:
    """One attack on all images: ``rows`` per image as in the store, ``x_adv``, its cost.

    ``keys`` of the cells behind it: of several, each saw what those before it left.
    """

    rows: pd.DataFrame
    x_adv: Tensor
    cost: Mapping[str, Any]
    keys: tuple[str, ...]

    @property
    def robust(self) -> pd.Series[bool]:
        """Whether each image stays right."""
        return self.rows["robust"]

    @property
    def accuracy(self) -> float:
        """Robust accuracy, a share."""
        return float(self.rows["robust"].mean())

    def first(self, n: int) -> Run:
        """Keep the first n images."""
        return replace(self, rows=self.rows[:n], x_adv=self.x_adv[:n])


@dataclass
class Subject:
    """A defense under audit on the first n test images, with a store of its own.

    Attacks are run as cells of that store, so that a killed audit goes on where it was and
    checks share what they need. ``settings`` are those of ``apgd``, which the main attack
    begins with.
    """

    base: Prepared
    workspace: Workspace
    results: Store  # of the user's own cells on the same defense
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        cell = self.base.cell
        self.images: Images = self.base.pixels.images(0, cell.n).to(self.workspace.device)
        self.defense: Defense = self.base.defense
        # Never called before the check that looks for a memory of calls.
        self.pristine: Defense = _copied(self.defense)
        self.threat: ThreatModel = cell.threat
        self.rng = Rng.seeded(cell.seed, self.images.indices).fork("audit")

    @property
    def access(self) -> Access:
        """The most that an attacker can use: the full gradient where there is one."""
        return Access.FULL if self.has_gradient(Access.FULL) else Access.BPDA

    @property
    def bare(self) -> Variant:
        """The classifier without its purifier."""
        return self.variant("no purifier", Untouched())

    def variant(self, label: str, purifier: Purifier) -> Variant:
        """Put another purifier before the same classifier."""
        defense = Defense(purifier, self.defense.classifier)
        return Variant(label, defense.to(self.workspace.device))

    def of(self, variant: Variant, n: int | None = None) -> Subject:
        """Audit a variant with the same settings and store, on the first n images if given."""
        n = self.base.cell.n if n is None else min(n, self.base.cell.n)
        cell = replace(
            self.base.cell, n=n, shard=min(n, self.base.cell.shard), defense=self._part(variant)
        )
        base = replace(self.base, cell=cell, defense=variant.defense)
        return Subject(base, self.workspace, self.results, self.settings)

    def first(self, n: int) -> Subject:
        """Audit the same defense with the same settings and store on the first n images."""
        if n >= self.base.cell.n:
            return self
        cell = replace(self.base.cell, n=n, shard=min(n, self.base.cell.shard))
        base = replace(self.base, cell=cell)
        return Subject(base, self.workspace, self.results, self.settings)

    def _part(self, variant: Variant | None) -> Part:
        part = self.base.cell.defense
        return replace(part, name=f"{part.name}, {variant.label}") if variant else part

    def view(self, access: Access) -> View:
        """Open the defense to an attacker."""
        return view_of(self.defense, access)

    def changes_nothing(self, x_adv: Tensor) -> bool:
        """Whether clean, attacked and random images all come back from the purifier as is.

        Of all three kinds, since a purifier may act on some of them only.
        """
        rng = self.rng.fork("identity")
        tried = (self.images.x, x_adv, rng.fork("images").uniform_like(x_adv))
        with torch.no_grad():
            return all(torch.equal(self.defense.purify(x, rng=rng), x) for x in tried)

    def has_gradient(self, access: Access) -> bool:
        """Whether autograd reaches the images at all; FULL asks the defense first."""
        if access is Access.FULL and not self.defense.purifier.differentiable:
            return False
        x = self.images.x[:2].detach().requires_grad_()
        logits = self.view(access)(x, rng=self.rng[:2].fork("probe"))
        if not logits.requires_grad:
            return False
        (gradient,) = torch.autograd.grad(logits.sum(), x, allow_unused=True)
        return gradient is not None

    def strong(self, **changes: Any) -> Run:
        """Run the main attack with the widest access; ``changes`` go to ``run``.

        An untargeted ascent, and one to each class for what it leaves.
        """
        first = self.quick(**changes)
        then = self.targeted(**{**changes, "after": first})
        # Of what it did not break it may propose the clean image: the first one's is kept.
        fell = first.robust & ~then.robust
        rows = first.rows.copy()
        rows[fell] = then.rows[fell]
        taken = torch.tensor(fell.to_numpy(), device=first.x_adv.device).reshape(-1, 1, 1, 1)
        x_adv = torch.where(taken, then.x_adv, first.x_adv)
        return replace(first, rows=rows, x_adv=x_adv, keys=then.keys)

    def targeted(self, **changes: Any) -> Run:
        """Run the ascents to each class of the main attack alone; ``changes`` go to ``run``."""
        settings = {**self.settings, **changes.pop("settings", {})}
        access = changes.pop("access", self.access)
        targeted = {
            "steps": settings["steps"],
            "eot": _VOTES * settings["eot"],
            "warm": False,
            **self._surrogate(settings, access, changes.get("variant")),
        }
        return self.run("apgd_t", access, targeted, **changes)

    def quick(self, **changes: Any) -> Run:
        """Run the untargeted ascent of the main attack alone; ``changes`` go to ``run``.

        It starts at random also where other attacks went before, so that its budget alone
        makes a difference.
        """
        settings = {**self.settings, "warm": False, **changes.pop("settings", {})}
        access = changes.pop("access", self.access)
        settings |= self._surrogate(settings, access, changes.get("variant"))
        return self.run("apgd", access, settings, **changes)

    def _surrogate(
        self, settings: Mapping[str, Any], access: Access, variant: Variant | None
    ) -> dict[str, Any]:
        """Keep a coarser process where there is one: a control has none, transfer hides it."""
        purifier = (variant.defense if variant else self.defense).purifier
        seen = access in (Access.FULL, Access.BPDA) and fits(purifier, CoarsePurifier)
        return {"surrogate": settings.get("surrogate") if seen else None}

    def run(
        self, attack: str, access: Access, settings: Mapping[str, Any] | None = None, **how: Any
    ) -> Run:
        """Build an attack by its name and do as ``run_with``."""
        made: Attack = build("attacks", attack, settings or {})
        return self.run_with(made, attack, access, **how)

    def run_with(
        self,
        attack: Attack,
        name: str,
        access: Access,
        *,
        norm: Norm | None = None,
        eps: Fraction | str | None = "same",
        variant: Variant | None = None,
        draws: int | None = None,
        after: Run | None = None,
    ) -> Run:
        """Attack the images, or read what was run before; ``eps`` None is no bound.

        ``draws``: so many draws of the judge for every image; without it those of the audit,
        until the verdict is clear. ``after``: only what another run left right is attacked,
        and what is returned is what both left.
        """
        radius = self.threat.eps if isinstance(eps, str) else eps
        threat = ThreatModel(norm or self.threat.norm, radius, access)
        cell = replace(
            self.base.cell,
            defense=self._part(variant),
            attack=Part(name, parameters(attack), attack.revision),
            threat=threat,
            draws=draws or self.base.cell.draws,
            sequential=draws is None,
            after=after.keys if after else (),
        )
        defense = variant.defense if variant else self.defense
        prepared = replace(self.base, cell=cell, defense=defense, attack=attack)
        audit = Settings(notes=("audit",))
        finish(run_cell(prepared, workspace=self.workspace, settings=audit))
        return self._read(cell, after)

    def _read(self, cell: Cell, after: Run | None) -> Run:
        """Read a finished cell of the audit's own store, and fill in what it did not see."""
        from safetensors.torch import load_file

        store = self.workspace.store
        key, proposals = cell.key(), cell.proposal_key()
        rows = read_rows(store.outcomes(key))
        seen = set(rows["index"])
        blocks = [
            load_file(store.proposal(proposals, start, stop))["x_adv"]
            for start, stop in cell.shards()
            if seen & set(range(start, stop))
        ]
        x_adv = torch.cat(blocks) if blocks else self.images.x[:0]
        x_adv = x_adv.to(self.workspace.device)
        if after is not None:
            unseen = after.rows[~after.rows["index"].isin(seen)]
            fresh = torch.tensor(after.rows["index"].isin(seen).to_numpy(), device=x_adv.device)
            x_adv = after.x_adv.masked_scatter(fresh.reshape(-1, 1, 1, 1), x_adv)
            rows = pd.concat([unseen, rows]) if seen else after.rows
            rows = rows.sort_values("index", ignore_index=True)
        return Run(
            rows=rows,
            x_adv=x_adv,
            cost=read_json(store.cell(key) / "provenance.json"),
            keys=(*(after.keys if after else ()), key),
        )
