"""A table file: what a paper's table shows, and the plans behind it. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic

from bench.errors import PlanError, UsageError
from bench.experiments.plan import Plan, parse_plan, read_mapping
from bench.experiments.plan_faults import Origin, all_faults, in_words
from bench.plugins.names import kept

Layout = Literal["gain", "attacks", "ladder", "ablation", "museum"]
_LAYOUTS = "gain, attacks, ladder, ablation or museum"
_KEYS = f"title, layout ({_LAYOUTS}) and runs, as table1.yaml has."
_ONLY: dict[Layout, tuple[str, ...]] = {
    "gain": ("baseline",),
    "attacks": (),
    "ladder": (),
    "ablation": ("rows", "columns"),
    "museum": (),
}
_UNCLAIMED = "none"  # the bare classifier, of which nobody claims anything


class Claim(pydantic.BaseModel, extra="forbid"):
    """What was published of a defense, and ``access`` as its authors describe it."""

    who: str
    year: int
    claim: str
    access: str


class Run(Plan, extra="forbid"):
    """A plan of a table, and what papers say of its defenses, by name.

    ``paper`` is the gain in points that the paper of the table claims; ``claims`` are those of
    a museum, or beside a ladder, each of another paper.
    """

    entries: ClassVar[dict[str, type[pydantic.BaseModel]]] = {**Plan.entries, "claims": Claim}
    paper: dict[str, float] = pydantic.Field(default_factory=dict)
    claims: dict[str, Claim] = pydantic.Field(default_factory=dict)


class Head(pydantic.BaseModel, extra="forbid"):
    """What a table file says beside its runs.

    ``gain``: ``baseline`` is the defense to which the others are compared, and ``match`` names
    the parameters of defenses by which a baseline is chosen among several (see
    ``bench.paper.gain``). ``ablation``: ``rows`` and ``columns`` are parameters of defenses.
    """

    title: str
    layout: Layout
    text: str = ""
    baseline: str | None = None
    match: list[str] = ["training.seed", "steps"]
    rows: str | None = None
    columns: str | None = None

    def faults(self) -> list[str]:
        """Name the keys that the layout lacks and those that it does not know."""
        faults = []
        for layout, names in _ONLY.items():
            for name in names:
                given = getattr(self, name) is not None
                if layout == self.layout and not given:
                    faults.append(f"layout {layout} needs the key '{name}'.")
                elif layout != self.layout and given:
                    faults.append(f"'{name}' is a key of the layout {layout} only.")
        if self.layout != "gain" and "match" in self.model_fields_set:
            faults.append("'match' is a key of the layout gain only.")
        if self.layout == "ablation" and self.rows is not None and self.rows == self.columns:
            faults.append(f"rows and columns are both '{self.rows}'.")
        return faults


class TableFile(pydantic.BaseModel):
    """A whole table file, all of it sound."""

    head: Head
    runs: list[Run]


def read_table(path: Path) -> TableFile:
    """Read a table file; raises PlanError with every fault of it."""
    content = read_mapping(path, f"is no table file: it has to be a mapping with {_KEYS}")
    written = content.pop("runs", None)
    faults: list[str] = []
    head = None
    try:
        head = Head.model_validate(content)
        faults += [f"{path.name}: {fault}" for fault in head.faults()]
    except pydantic.ValidationError as error:
        origin = Origin(path.name, path)
        faults += in_words(error, origin, lambda _: [*Head.model_fields, "runs"])
    runs = []
    if not isinstance(written, list) or not written:
        faults.append(f"{path.name}: runs has to be a list of plans, one or more.")
        written = []
    for number, plan in enumerate(written, 1):
        where = f"{path.name}, run {number}"
        try:
            runs.append(_run(plan, Origin(where, path, ("runs", number - 1))))
            faults += [f"{where}: {fault}" for fault in _of_the_table(runs[-1], head)]
        except PlanError as error:
            faults += error.faults
    if faults or head is None:
        raise all_faults(faults)
    return TableFile(head=head, runs=runs)


def _run(content: Any, origin: Origin) -> Run:
    if not isinstance(content, dict):
        said = "write a mapping with defenses, attacks and threats."
        raise all_faults([f"{origin.at(())}: {said}"])
    run = parse_plan(content, Run, origin)
    faults = run.faults()
    try:
        run.requests()
    except PlanError as error:
        faults += error.faults
    if faults:
        raise all_faults(faults)
    return run


def _of_the_table(run: Run, head: Head | None) -> list[str]:
    """Check what a run says against the head of its table."""
    names = [kept(choice.name) for choice in run.defenses]  # as its cells have them
    faults = [
        f"paper names {name}, which is none of the defenses {', '.join(names)}."
        for name in run.paper
        if name not in names
    ]
    faults += [
        f"claims names {name}, which is none of the defenses {', '.join(names)}."
        for name in run.claims
        if name not in names
    ]
    if head is None:
        return faults
    if head.layout == "museum":
        silent = [name for name in names if name not in (*run.claims, _UNCLAIMED)]
        faults += [f"claims says nothing of {name}." for name in dict.fromkeys(silent)]
    elif run.claims and head.layout != "ladder":
        faults.append("'claims' is a key of the layouts museum and ladder only.")
    if head.layout == "gain" and head.baseline and head.baseline not in names:
        faults.append(f"the baseline {head.baseline} is not among its defenses.")
    if run.ladder and head.layout == "gain":
        faults.append("ladder: true leaves only survivors, which cannot be paired for a gain.")
    if run.ladder and head.layout == "museum":
        faults.append("ladder: true leaves only survivors: no access has a number of its own.")
    if run.paper and head.layout != "gain":
        faults.append("'paper' is a key of the layout gain only.")
    if head.baseline in run.paper:
        faults.append(f"paper claims a gain of the baseline {head.baseline} over itself.")
    return faults


def table_files(given: list[Path], folder: Path) -> list[Path]:
    """List the table files that are meant, each stem once; raises UsageError."""
    found = given or sorted(folder.glob("*.yaml"))
    if not found:
        raise UsageError(f"there is no table file in {folder}: name one, such as FILE.yaml.")
    stems = [path.stem for path in found]
    for stem in stems:
        if stems.count(stem) > 1:
            raise UsageError(
                f"several table files are called {stem}: their tables would overwrite each "
                "other. Give them names of their own, or another --output each."
            )
    return found
