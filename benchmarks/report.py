"""The table: CSV with every column, Markdown with the machine that it was measured on."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.results.provenance import origin
from benchmarks.rows import Row

_HEADS = ("what", "value", "low to high", "CPU time", "target", "holds", "checked", "reason")


def machine(devices: Sequence[str]) -> str:
    """Describe processor, memory and accelerators, without names of hosts or users."""
    model = re.search(r"model name\s*:\s*(.+)", _read(Path("/proc/cpuinfo")))
    memory = re.search(r"MemTotal:\s+(\d+)", _read(Path("/proc/meminfo")))
    parts = [
        model[1] if model else platform.processor() or platform.machine(),
        f"{os.cpu_count()} cores, 1 used",
        f"{int(memory[1]) // 2**20} GiB" if memory else "",
        platform.system(),
        *(torch.cuda.get_device_name(name) for name in devices if name.startswith("cuda")),
    ]
    return ", ".join(part for part in parts if part)


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def as_csv(rows: Sequence[Row]) -> str:
    """Write every column of every row."""
    text = io.StringIO()
    names = [field.name for field in dataclasses.fields(Row)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "target", "holds"])
    for row in rows:
        values = [getattr(row, name) for name in names]
        writer.writerow(["" if v is None else v for v in values] + [row.target, row.holds])
    return text.getvalue()


def as_markdown(rows: Sequence[Row], *, devices: Sequence[str], quick: bool) -> str:
    """Write the page: what it was measured on, then a table for each item."""
    about = origin()
    versions = [f"{name} {found}" for name, found in about["versions"].items()]
    lines = [
        "# Benchmarks",
        "",
        f"- machine: {machine(devices)}",
        f"- date: {about['date']}",
        f"- commit: {about['commit'] or 'unknown'}",
        f"- versions: {', '.join(versions)}",
        f"- command: `{about['command'].replace('__main__.py', 'python -m benchmarks')}`",
        "",
        "A / B is the value of A divided by the value of B. Values are",
        "medians of rounds in which the compared things take turns, by the wall clock; CPU",
        "time is the same by the clock of the process.",
    ]
    if quick:
        lines += ["", "**A smoke run: the times mean nothing.**"]
    for item in dict.fromkeys(row.item for row in rows):
        lines += ["", f"## {item}", "", f"| {' | '.join(_HEADS)} |", "| --- " * 8 + "|"]
        lines += [_line(row) for row in rows if row.item == item]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    unit = "" if row.unit == "ratio" else f" {row.unit}"
    spread = (
        f"{_number(row.low)} to {_number(row.high)} ({row.repeats})"
        if row.low is not None
        else ""
    )
    cells = (
        row.what,
        f"{_number(row.value)}{unit}" if row.value is not None else "none",
        spread,
        _number(row.cpu),
        row.target,
        row.holds,
        row.checked,
        row.reason,
    )
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
