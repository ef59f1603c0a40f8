"""Rows as JUnit XML, which services for continuous integration read. No torch.

The structure is that of the Jenkins xunit schema (junit-10.xsd), with the properties of a
test case that pytest and others write as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from bench.results.bound import is_below
from bench.results.render import text_of
from bench.results.rows import Row, whole_rows

# Beside the defense, what a cell is called: nothing of it depends on the other rows.
_NAME = ("attack", "access", "norm", "eps", "dataset", "classifier")
_NUMBERED = ("n", "seed", "draws")
# What XML 1.0 has no way to write.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(rows: Sequence[Row], *, suite: str, bound: float | None) -> bytes:
    """Write one test case per row as UTF-8; times are the cells' own, whenever they ran.

    A robust accuracy below ``bound``, in percent, is a failure; a void, failed or damaged row
    is an error, and an unsupported combination is skipped.
    """
    cases = [_case(row, bound) for row in whole_rows(rows)]
    counts = {
        name: str(sum(case.find(tag) is not None for case in cases))
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))
    }
    total = {"tests": str(len(cases)), "failures": counts["failures"]}
    total |= {
        "errors": counts["errors"],
        "time": _seconds(sum(row.get("seconds") or 0.0 for row in rows)),
    }
    root = ET.Element("testsuites", {"name": "bench", **total})
    attributes = {"name": _clean(suite), **total, "skipped": counts["skipped"]}
    ET.SubElement(root, "testsuite", attributes).extend(cases)
    ET.indent(root)
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _case(row: Mapping[Any, Any], bound: float | None) -> ET.Element:
    words = [text_of(row[name]) for name in _NAME]
    words += [f"{name}={text_of(row[name])}" for name in _NUMBERED]
    name = " ".join(filter(None, [*words, text_of(row["settings"])]))
    case = ET.Element(
        "testcase",
        {
            "classname": _clean(text_of(row["defense"])),
            "name": _clean(name),
            "time": _seconds(row["seconds"]),
        },
    )
    known = {"key": row["key"]}
    if measured := row["state"] == "done":
        low, high = text_of(row["robust_low"]), text_of(row["robust_high"])
        known |= {"robust": text_of(row["robust"]), "interval": f"{low}-{high}"}
    properties = ET.SubElement(case, "properties")
    for what, value in known.items():
        ET.SubElement(properties, "property", {"name": what, "value": _clean(value)})
    if row["state"] == "skipped":
        _outcome(case, "skipped", "unsupported", row["note"])
    elif not measured:
        _outcome(case, "error", row["state"], row["note"])
    elif bound is not None and is_below(row["robust"], bound):
        found = f"robust {known['robust']} ({known['interval']}) is below {bound:g}"
        _outcome(case, "failure", "below", found)
    return case


def _outcome(case: ET.Element, tag: str, kind: str, message: Any) -> None:
    text = _clean(text_of(message)) or kind
    ET.SubElement(case, tag, {"type": kind, "message": text}).text = text


def _seconds(value: Any) -> str:
    return f"{value or 0.0:.1f}"


def _clean(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
