"""Decision rules over stored votes: what one evaluation says under another rule.

Imports no torch. Every rule is exact: what is expected over random subsets of the stored
draws is counted, not sampled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from math import comb
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.errors import UsageError
from bench.results.files import read_json
from bench.results.store import Store, read_rows

Kind = Literal["single", "vote", "vote@", "mean-logit", "worst-of-"]
Shares = npt.NDArray[np.float64]

_NUMBERED: dict[str, Kind] = {"vote@": "vote@", "worst-of-": "worst-of-"}
_PLAIN: dict[str, Kind] = {"single": "single", "vote": "vote", "mean-logit": "mean-logit"}
_KNOWN = "single, vote, vote@R, mean-logit or worst-of-N, such as vote@5 or worst-of-10"
_LONGEST = 20  # characters of a rule
_MEANING: dict[Kind, str] = {
    "single": "expected accuracy of one draw",
    "vote": "the vote of all draws, robust: right clean and attacked",
    "vote@": "expected vote of {draws} of the stored draws, chosen without replacement",
    "mean-logit": "the largest mean logit over all draws",
    "worst-of-": "probability that {draws} of the stored draws are all right",
}


@dataclass(frozen=True)
class Rule:
    """How the draws of an image become one answer; ``draws`` where the rule has a number."""

    kind: Kind
    draws: int | None = None

    def __str__(self) -> str:
        return f"{self.kind}{self.draws or ''}"

    def describe(self) -> str:
        """Return in one line what the numbers of a table by this rule are."""
        return f"{self}: {_MEANING[self.kind].format(draws=self.draws)}"


def parse_rule(text: str) -> Rule:
    """Read 'single', 'vote', 'vote@5', 'mean-logit' or 'worst-of-10'; raises UsageError."""
    if text in _PLAIN:
        return Rule(_PLAIN[text])
    found = re.fullmatch(r"(vote@|worst-of-)([0-9]+)", text)
    if not found:
        raise UsageError(f"'{text[:_LONGEST]}' is no decision rule. Write {_KNOWN}.")
    if len(text) > _LONGEST:
        raise UsageError(f"rule {text[:_LONGEST]}... has too many digits. Write {_KNOWN}.")
    if int(found[2]) < 1:
        raise UsageError(f"rule {text} decides by {found[2]} draws: it takes 1 or more.")
    return Rule(_NUMBERED[found[1]], int(found[2]))


def right(outcomes: pd.DataFrame, rule: Rule, *, attacked: bool) -> Shares:
    """Return each image's probability (N,) of being answered right by a rule.

    Reads the columns label and votes (logits) for attacked images, clean_votes
    (clean_logits) for clean ones. A tie is a loss. One vote per image is a deterministic
    defense: any number of its draws is that vote. Raises UsageError.
    """
    if outcomes.empty:
        return np.zeros(0)
    labels = outcomes["label"].to_numpy()
    votes = np.stack(list(outcomes["votes" if attacked else "clean_votes"]))
    totals = votes.sum(1)
    true = votes[np.arange(len(votes)), labels]
    if rule.kind == "vote":
        return _elected(votes, labels).astype(float)
    if len(set(totals)) > 1:
        raise _too_few(rule)
    stored = int(totals[0])
    if rule.kind == "mean-logit":
        logits = _logits(outcomes, "logits" if attacked else "clean_logits")
        return np.asarray(logits.argmax(1) == labels, dtype=float)
    draws = rule.draws or 1
    if stored == 1:
        draws = 1
    if draws > stored:
        raise UsageError(
            f"rule {rule} takes {draws} draws and {stored} are stored per image. Take at most "
            f"{stored}, or judge with --draws={draws}."
        )
    if rule.kind == "single":
        return np.asarray(true / totals, dtype=float)
    if rule.kind == "worst-of-":
        return np.array([comb(int(t), draws) / comb(stored, draws) for t in true])
    others = [
        tuple(sorted(int(v) for k, v in enumerate(row) if k != label and v))
        for row, label in zip(votes, labels, strict=True)
    ]
    return np.array([plurality(int(t), o, draws) for t, o in zip(true, others, strict=True)])


def _elected(votes: npt.NDArray[Any], labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    others = votes.copy()
    others[np.arange(len(votes)), labels] = -1
    return np.asarray(votes[np.arange(len(votes)), labels] > others.max(1))


def _too_few(rule: Rule) -> UsageError:
    return UsageError(
        f"rule {rule} needs all draws of every image, and this cell was judged sequentially: "
        "its draws end where the verdict is clear. Judge it with all draws, or take the rule "
        "vote."
    )


def _logits(outcomes: pd.DataFrame, column: str) -> npt.NDArray[Any]:
    if column not in outcomes or outcomes[column].isna().any():
        raise UsageError(
            f"no {column} are stored: the cell was judged by a version of bench that kept "
            "only votes. Judge it again in another results folder, or take another rule."
        )
    return np.stack(list(outcomes[column]))


@cache
def plurality(true: int, others: tuple[int, ...], draws: int) -> float:
    """Return the probability that the true class has strictly the most of ``draws`` votes.

    ``true`` and ``others`` are the stored votes of the true class and of the other classes;
    the draws are taken from them without replacement. With t votes for the true class, the
    ways to deal the other draws are the coefficient of z^(draws - t) in the product over the
    other classes of sum_{i < t} C(v, i) z^i.
    """
    ways = 0
    for t in range(1, min(true, draws) + 1):
        left = draws - t
        product = [1] + [0] * left
        for votes in others:
            terms = [comb(votes, i) for i in range(min(votes, t - 1, left) + 1)]
            product = [
                sum(terms[i] * product[k - i] for i in range(min(len(terms) - 1, k) + 1))
                for k in range(left + 1)
            ]
        ways += comb(true, t) * product[left]
    return ways / comb(true + sum(others), draws)


def read_outcomes(store: Store, key: str, rule: Rule | None = None) -> pd.DataFrame:
    """Read a cell's outcomes, its columns clean and robust by a rule.

    Without a rule, and by ``vote``, they are as the judge stored them. By any other they are
    probabilities in [0, 1], robust of the attacked image only. Raises BenchError.
    """
    outcomes = read_rows(store.outcomes(key))
    if rule is None or rule.kind == "vote":
        return outcomes
    cell = read_json(store.cell(key) / "cell.json")
    try:
        _check_draws(outcomes, rule, cell)
        clean = right(outcomes, rule, attacked=False)
        robust = right(outcomes, rule, attacked=True)
    except UsageError as error:
        pair = f"{cell['defense']['name']} under {cell['attack']['name']}"
        raise UsageError(f"cell {key} ({pair}): {error}") from error
    # An illegal image never counts as a break: it is worth what the clean one is.
    robust = np.where(outcomes["legal"].to_numpy(dtype=bool), robust, clean)
    return outcomes.assign(clean=clean, robust=robust)


def _check_draws(outcomes: pd.DataFrame, rule: Rule, cell: dict[str, Any]) -> None:
    """Refuse what the votes do not show: how the judge was asked to draw."""
    if cell.get("after"):
        raise UsageError(
            f"rule {rule} needs the draws of all images, and this cell attacked only the "
            "survivors of others. Take the rule vote, or run the attack on all images."
        )
    most = max(int(votes.sum()) for votes in outcomes["votes"])
    if cell.get("sequential") and most > 1:
        raise _too_few(rule)
    if cell["draws"] == 1 and (rule.draws or 1) > 1:
        raise UsageError(
            f"rule {rule} takes {rule.draws} draws and one was asked for, so it is not known "
            f"whether the defense draws noise. Judge with --draws={rule.draws}."
        )


def headline(rule: Rule, form: str) -> str:
    """Return what is written above a table: its rule, in Markdown or as a LaTeX comment."""
    if form == "csv":  # the column `rule` says it there
        return ""
    return f"% {rule.describe()}\n" if form == "latex" else f"{rule.describe()}\n\n"
