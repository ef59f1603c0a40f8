"""``python -m tests.kills --kills N --seed S``: kill N commands and count what came of them."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from ..children import forked_with
from .trials import PRELOAD, kill_many


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, forked_with(PRELOAD) as context:
        counts, bad = kill_many(context, asked.kills, asked.seed, Path(folder))
    lines = [f"{count:8} {name}" for name, count in sorted(counts.items())]
    lines += [*bad, f"{len(bad)} differences after {counts.total()} kills", ""]
    sys.stdout.write("\n".join(lines))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
