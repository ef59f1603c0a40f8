"""The documentation as a site: the pages as they are on GitHub, and a reference."""

from __future__ import annotations

import subprocess
import sys

from sphinx.application import Sphinx

from bench import __version__

project = "purifybench"
author = "The purifybench authors"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
# The root is that of the repository, so that every link leads where it does on GitHub.
root_doc = "README"
include_patterns = ["*.md", "docs/**", "benchmarks/*.md", "results/**.md"]
exclude_patterns = ["docs/site", "site", ".*"]
suppress_warnings = ["toc.not_included"]  # measured tables: pages lead to them

myst_heading_anchors = 4
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_member_order = "groupwise"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = "purifybench"
html_extra_path = ["index.html"]
html_copy_source = False
html_show_copyright = False

_NAVIGATION = {
    "Measure": ("usage", "python", "attacks", "scale"),
    "Trust": ("trust", "calibration", "results", "recipes"),
    "Extend": ("plugins", "figures", "structure", "decisions"),
    "Reference": ("reference/command_line", "reference/python", "reference/testing"),
}
_MORE = ("benchmarks/README", "CONTRIBUTING", "CHANGELOG")


def _toctree(caption: str, pages: tuple[str, ...]) -> str:
    lines = "\n".join(pages)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"


def _completed(_: Sphinx, page: str, source: list[str]) -> None:
    """Add to pages what GitHub could not show: the navigation, and what commands say."""
    if page == root_doc:
        for caption, names in _NAVIGATION.items():
            source[0] += _toctree(caption, tuple(f"docs/{name}" for name in names))
        source[0] += _toctree("Project", _MORE)
    if page == "docs/reference/command_line":
        words = [sys.executable, "-m", "typer", "bench.cli", "utils", "docs", "--name", "bench"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        _, begin, commands = done.stdout.partition("\n## ")
        source[0] += begin + commands


def setup(app: Sphinx) -> None:
    """Connect the above."""
    app.connect("source-read", _completed)
