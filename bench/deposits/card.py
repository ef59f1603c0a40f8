"""The card that RobustBench's leaderboard has of a model, and its rules. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.deposits.leaderboard import (
    TEST_IMAGES,
    Entry,
    autoattack_of,
    board_of,
    clean_share,
    robust_images,
)
from bench.errors import BenchError
from bench.plugins.catalogue import build
from bench.plugins.names import parsed
from bench.results.audits import reports
from bench.results.cell import subject_of
from bench.results.files import read_json
from bench.results.store import Store

# What only people know of a model.
BY_HAND = ("link", "name", "authors", "additional_data", "venue", "reported")


@dataclass(frozen=True)
class Card:
    """The fields of a card, the rules that the defense breaks, and what to know beside."""

    fields: dict[str, Any]
    broken: tuple[str, ...]
    remarks: tuple[str, ...]


def card(store: Store, made: Entry) -> Card:
    """Write the card of a defense from its cells, numbers as the leaderboard writes them."""
    content = made.content
    defense, classifier = content["defense"]["name"], content["classifier"]["name"]
    standard = autoattack_of(made)
    robust = robust_images(made)
    audit = _audit(store, made, 100 * float(robust.mean()))
    draws = _draws(made)
    broken = list(_broken(store, made))
    remarks = _remarks(made, standard, broken)
    fields = {
        **dict.fromkeys(BY_HAND),
        "number_forward_passes": _passes(store, made),
        "dataset": content["dataset"],
        "architecture": classifier if defense == "none" else f"{classifier} behind {defense}",
        "eps": board_of(content["dataset"], content["norm"]),
        "clean_acc": _percent(clean_share(made)),
        "autoattack_acc": None,
        "footnote": " ".join(_footnote(made, draws, audit, broken)),
        "unreliable": audit != "stands",
    }
    if standard is not None:
        fields["autoattack_acc"] = _percent(float(made.rows[standard]["robust"].mean()))
    if set(made.rows) != {standard}:
        fields["external"] = _percent(float(robust.mean()))
    return Card(fields, tuple(broken), tuple(remarks))


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _audit(store: Store, made: Entry, robust: float) -> str:
    """Return what an audit makes of a robust accuracy in percent, as tables do."""
    report = reports(store).get(subject_of(made.content), {"state": "none"})
    reached = report.get("accuracy")
    if report["state"] == "stands" and (reached is None or robust > reached["robust_high"]):
        return "upper bound"
    return str(report["state"])


def _draws(made: Entry) -> int:
    """Return how many draws vote on an image at most."""
    return int(made.rows[made.whole]["clean_votes"].map(sum).max())


def _passes(store: Store, made: Entry) -> int:
    """Count the forward passes behind one answer, all of its draws together."""
    rows = made.rows[made.whole]
    passes = read_json(store.cell(made.whole) / "provenance.json")["judge passes"]
    forward = sum(count for name, count in passes.items() if name.endswith("forward"))
    drawn = int(rows["clean_votes"].map(sum).sum() + rows["votes"].map(sum).sum())
    share: float = forward / drawn
    return round(share * _draws(made))


def _footnote(made: Entry, draws: int, audit: str, broken: list[str]) -> Iterator[str]:
    content = made.content
    if content["defense"]["name"] != "none":
        yield f"It purifies each image with {content['defense']['name']}."
    if draws > 1:
        yield f"It answers by the vote of {draws} random draws."
    if content["n"] < TEST_IMAGES:
        yield f"On the first {content['n']} of {TEST_IMAGES} test images."
    attacks = {f"{one['attack']['name']} ({one['access']})" for one in made.cells.values()}
    yield f"Each image's minimum over {', '.join(sorted(attacks))}; audit: {audit}."
    for text in broken:
        yield f"Against the rules: {text}."


def _broken(store: Store, made: Entry) -> Iterator[str]:
    """Name the leaderboard's rules that the defense breaks, as far as it was measured."""
    part = made.content["defense"]
    plugin: Any = None
    if not parsed(part["name"]):
        try:
            plugin = build("defenses", part["name"], part["params"])
        except BenchError:
            plugin = None  # not installed here: what was measured says what it can
    if getattr(plugin, "differentiable", True) is False:
        yield "(1) it has no gradient with respect to its input"
    if _draws(made) > 1 or getattr(plugin, "stochastic", False) is True:
        yield "(2) its forward pass is random"
    passes = read_json(store.cell(made.whole) / "provenance.json")["judge passes"]
    if any(name.endswith("backward") and count for name, count in passes.items()):
        yield "(3) it optimizes at test time: an answer takes gradients of a network"


def _remarks(made: Entry, standard: str | None, broken: list[str]) -> Iterator[str]:
    n, content = made.content["n"], made.content
    if n < TEST_IMAGES:
        yield (
            f"{n} of {TEST_IMAGES} test images were measured: the leaderboard asks for all of "
            "them"
        )
    if standard is None and any(text.startswith("(1)") for text in broken):
        yield "autoattack_acc is empty: the standard AutoAttack needs a gradient of the defense"
    elif standard is None:
        yield (
            "autoattack_acc is empty: the standard AutoAttack on the whole defense was not "
            f"run (bench run --defense {content['defense']['name']} --dataset "
            f"{content['dataset']} --attack autoattack --access full --set "
            "attack.version=standard)"
        )
    if not any(text.startswith("(3)") for text in broken):
        yield (
            "rule (3), no optimization loop, is seen only where networks are differentiated "
            "at test time: check by hand whether something else is optimized"
        )
