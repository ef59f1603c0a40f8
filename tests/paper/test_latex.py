"""Tables in LaTeX: what is pasted into a paper compiles and says what the page says."""

from __future__ import annotations

import shutil
import string
import subprocess
from pathlib import Path

import pytest

from bench.paper.latex import latex

HEADS = ["dataset", "norm", "eps", "defense", "gain", "n"]
ROWS = [
    ["mnist", "Linf", "0.3", "adv_ebm", "-3.3 (-5.3 to +1.3)", "1000"],
    ["mnist", "Linf", "0.3", "ebm", "98.4 (97.7-99.2)", "1000"],
    ["mnist", "Linf", "inf", "ebm", "p 3.7e-87", "100"],
]
TABLES = sorted(Path("results/paper").glob("*.tex"))


def test_balls_are_headings_and_signs_are_signs() -> None:
    text = latex((HEADS, ROWS), ["A title,\nbroken", "made so"])
    assert text.splitlines()[:2] == ["% A title, broken", "% made so"]
    body = text[text.index(r"\begin{tabular}") :]
    assert body.splitlines() == [
        r"\begin{tabular}{lll}",
        r"\toprule",
        r"defense & gain & n \\",
        r"\midrule",
        r"\multicolumn{3}{l}{mnist Linf 0.3} \\",
        r"\midrule",
        r"adv\_ebm & $-$3.3 ($-$5.3 to +1.3) & 1000 \\",
        r"ebm & 98.4 (97.7--99.2) & 1000 \\",
        r"\midrule",
        r"\multicolumn{3}{l}{mnist Linf inf} \\",
        r"\midrule",
        r"ebm & p 3.7e-87 & 100 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_a_page_without_balls_has_no_headings() -> None:
    body = latex((["defense", "steps 5"], [["ebm", "12.5"]]), [])
    assert "multicolumn" not in body
    assert body.count(r"\midrule") == 1


def compiled(folder: Path, table: str) -> str:
    """Compile a document around a table and return the text of its page."""
    (folder / "page.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,graphicx}\n"
        "\\begin{document}\\noindent\\resizebox{\\textwidth}{!}{%\n"
        + table
        + "}\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("path", [None, *TABLES], ids=lambda path: getattr(path, "stem", "all"))
def test_tables_compile(tmp_path: Path, path: Path | None) -> None:
    printable = [char for char in string.printable if not char.isspace()]
    every = latex((["letter"], [[f"a{char}b"] for char in printable]), [string.punctuation])
    assert r"Overfull \hbox" not in compiled(tmp_path, path.read_text() if path else every)
