"""The page of a table in LaTeX, with booktabs: a heading for each ball. Imports no torch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

_GROUP = ("dataset", "norm", "eps")  # these columns become headings of their rows
_ESCAPES = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip
_RANGE = re.compile(r"(?<=\d)-(?=\d)")  # 98.4-99.6
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")


def latex(page: tuple[list[str], list[list[str]]], about: list[str]) -> str:
    """Write heads and rows as a tabular, under comments that say what it is."""
    heads, rows = page
    kept = [place for place, head in enumerate(heads) if head not in _GROUP]
    grouped = [place for place, head in enumerate(heads) if head in _GROUP]
    notes = [*about, r"Needs \usepackage{booktabs}; where it is too wide, \usepackage{graphicx}"
             r" and \resizebox{\textwidth}{!}{...} around it."]  # fmt: skip
    lines = [f"% {' '.join(note.split())}" for note in notes]
    lines += [rf"\begin{{tabular}}{{{'l' * len(kept)}}}", r"\toprule"]
    lines.append(_line(heads[place] for place in kept))
    for names, group in itertools.groupby(rows, lambda row: [row[place] for place in grouped]):
        lines.append(r"\midrule")
        if grouped:
            lines.append(rf"\multicolumn{{{len(kept)}}}{{l}}{{{_text(' '.join(names))}}} \\")
            lines.append(r"\midrule")
        lines += [_line(row[place] for place in kept) for row in group]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _line(texts: Iterator[str]) -> str:
    return " & ".join(map(_text, texts)) + r" \\"


def _text(text: str) -> str:
    escaped = "".join(_ESCAPES.get(letter, letter) for letter in " ".join(text.split()))
    return _RANGE.sub("--", _MINUS.sub("$-$", escaped))
