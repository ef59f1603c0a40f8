"""Verdicts of two results folders, cell by cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .common import (
    say,
)


def compare(ours: Path, theirs: Path) -> dict[str, Any]:
    """Compare the finished cells that two results folders share, image by image."""
    import pandas as pd

    from bench.results.files import read_json
    from bench.results.store import Store

    found, one, other = {}, Store(ours), Store(theirs)
    keys = [key for key in one.finished() if other.outcomes(key).is_file()]
    seen = lost = gained = 0
    for key in keys:
        a, b = (
            pd.read_parquet(store.outcomes(key)).set_index("index") for store in (one, other)
        )
        b = b.reindex(a.index)
        about, before = (
            read_json(store.cell(key) / "provenance.json") for store in (one, other)
        )
        cell = read_json(one.cell(key) / "cell.json")
        more, fewer = (
            int((a["robust"] & ~b["robust"].astype(bool)).sum()),
            int((~a["robust"] & b["robust"].astype(bool)).sum()),
        )
        passes = sum(about["attack passes"].values()) + sum(about["judge passes"].values())
        entry = {
            "images": len(a), "robust": [round(100 * float(a["robust"].mean()), 1), round(100 * float(b["robust"].mean()), 1)],
            "gained": more, "lost": fewer, "seconds": [round(sum(d[f"{p} seconds"] for p in ("attack", "judge")), 1) for d in (about, before)],
            "passes": passes, "devices": about["devices"], "rows per pass": about.get("rows per pass"),
        }  # fmt: skip
        entry["passes a second"] = round(passes / max(1e-9, entry["seconds"][0]))
        name = f"{cell['dataset']} {cell['defense']['name']} {cell['attack']['name']} {cell['access']} {key}"
        found[name] = entry
        seen, gained, lost = seen + len(a), gained + more, lost + fewer
        say(
            "SEE",
            f"{name}: robust {entry['robust'][0]} here, {entry['robust'][1]} there; gained {more}, lost {fewer} of {len(a)}; seconds {entry['seconds']}, {entry['passes a second']:,} passes/s",
        )
    share = (gained + lost) / max(1, seen)
    state = (
        "SEE"
        if not keys
        else (
            "ok"
            if share <= 0.02 and abs(gained - lost) <= 3 * max(1, gained + lost) ** 0.5
            else "BAD"
        )
    )
    say(
        state,
        f"{len(keys)} cells of both folders: {gained + lost} of {seen} verdicts differ ({share:.2%}), {gained} gained, {lost} lost",
    )
    return found
