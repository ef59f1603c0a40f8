"""``python -m tests.fuzz --inputs N --seed S``: feed N inputs and count what came of them."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .targets import feed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, bad = feed(asked.inputs, asked.seed, Path(folder))
    lines = [f"{count:8} {name}" for name, count in sorted(counts.items())]
    sys.stdout.write("\n".join([*lines, *bad, f"{len(bad)} of {asked.inputs} are wrong", ""]))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
