"""``python -m benchmarks``: measure, and write the table."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from pathlib import Path

ITEMS = (
    "overhead", "eot", "full_gradient", "sharing", "ladder", "sequential", "search", "layout",
    "peers", "training", "startup", "growth",
)  # fmt: skip


def main(words: list[str] | None = None) -> int:
    """Run the items and return 1 where a target is missed, 0 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("items", nargs="*", metavar="ITEM", help=f"of {', '.join(ITEMS)}; all")
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has the peers")
    parser.add_argument("--device", default="all", help="auto, cpu, cuda or cuda:1; all")
    asked = parser.parse_args(words)
    unknown = [name for name in asked.items if name not in ITEMS]
    if unknown:
        parser.error(f"no item is called {', '.join(unknown)}. Known: {', '.join(ITEMS)}.")

    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from bench.errors import UsageError
    from bench.results.workspace import open_device
    from benchmarks.report import as_csv, as_markdown
    from benchmarks.rows import Row, Settings

    torch.set_num_threads(1)
    devices: tuple[str, ...] = (asked.device,)
    if asked.device == "all":
        devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    try:
        devices = tuple(str(open_device(device)) for device in devices)
    except UsageError as error:
        parser.error(str(error))
    items = [name for name in ITEMS if name in asked.items or not asked.items]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(
            quick=asked.quick,
            data=Path(os.environ.get("BENCH_DATA", "data")),
            scratch=Path(scratch),
            devices=devices,
            peer_python=asked.peer_python,
        )
        for name in items:
            for row in importlib.import_module(f"benchmarks.{name}").rows(settings):
                rows.append(row)
                value = "none" if row.value is None else f"{row.value:.3g} {row.unit}"
                sys.stderr.write(f"{name}: {row.what}: {value} {row.holds}\n")
    stem = "-".join(items) if asked.items else "benchmarks"
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / f"{stem}.csv").write_text(as_csv(rows))
    page = as_markdown(rows, devices=devices, quick=asked.quick)
    (asked.output / f"{stem}.md").write_text(page)
    sys.stdout.write(f"wrote {asked.output / stem}.csv and .md\n")
    return int(any(row.holds == "NO" for row in rows) and not asked.quick)


if __name__ == "__main__":
    sys.exit(main())
