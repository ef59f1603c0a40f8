"""JUnit XML: the structure of its schema, and names that no file can break."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.results.junit import junit
from bench.results.rows import COLUMNS

# What junit-10.xsd of the Jenkins xunit plugin lets an element have: its children, attributes
# that it needs and others; and the properties of a test case, which pytest writes too.
MESSAGE: tuple[set[str], set[str], set[str]] = (set(), set(), {"type", "message"})
SCHEMA = {
    "testsuites": ({"testsuite"}, set(), {"name", "time", "tests", "failures", "errors"}),
    "testsuite": (
        {"testcase"}, {"name", "tests", "failures", "errors"}, {"time", "skipped"}
    ),
    "testcase": (
        {"properties", "skipped", "error", "failure"}, {"name"}, {"time", "classname"}
    ),
    "properties": ({"property"}, set(), set()),
    "property": (set(), {"name", "value"}, set()),
    "skipped": MESSAGE, "error": MESSAGE, "failure": MESSAGE,
}  # fmt: skip


def row(state: str = "done", **more: Any) -> dict[str, Any]:
    measured = {"robust": 31.25, "robust_low": 20.0, "robust_high": 44.0, "seconds": 1.5}
    return {
        **dict.fromkeys(COLUMNS, ""),
        **dict.fromkeys(("robust", "robust_low", "robust_high", "seconds")),
        "defense": "ebm",
        "attack": "pgd",
        "eps": "8/255",
        "key": "00000000000000ab",
        "state": state,
        **(measured if state == "done" else {"note": f"it is {state}"}),
        **more,
    }


def parsed(
    *rows: dict[str, Any], bound: float | None = None, suite: str = "plan"
) -> ET.Element:
    """Write, parse, and hold every element against the schema."""
    root = ET.fromstring(junit(rows, suite=suite, bound=bound))
    assert root.tag == "testsuites"
    for element in root.iter():
        children, needed, others = SCHEMA[element.tag]
        assert {child.tag for child in element} <= children, element.tag
        assert needed <= set(element.attrib) <= needed | others, element.tag
    return root


def only(root: ET.Element) -> ET.Element:
    (case,) = root.iter("testcase")
    return case


def properties(case: ET.Element) -> dict[str, str]:
    return {one.attrib["name"]: one.attrib["value"] for one in case.iter("property")}


def test_each_state_is_what_ci_calls_it() -> None:
    states = ("done", "skipped", "failed", "void", "damaged", "unfinished")
    root = parsed(*map(row, states), bound=31.3)
    tags = [
        [one.tag for one in case if one.tag != "properties"] for case in root.iter("testcase")
    ]
    assert tags == [["failure"], ["skipped"], ["error"], ["error"], ["error"], ["error"]]
    suite = root[0].attrib
    assert (suite["tests"], suite["failures"], suite["errors"]) == ("6", "1", "4")
    assert (suite["skipped"], suite["time"], suite["name"]) == ("1", "1.5", "plan")
    error = next(root.iter("error"))
    assert (error.attrib["type"], error.attrib["message"]) == ("failed", "it is failed")


def test_a_measured_cell_has_its_number_interval_and_time() -> None:
    case = only(parsed(row()))
    assert properties(case) == {
        "key": "00000000000000ab", "robust": "31.2", "interval": "20.0-44.0"
    }  # fmt: skip
    assert case.attrib["time"] == "1.5"
    assert case.attrib["classname"] == "ebm"
    assert "pgd" in case.attrib["name"]
    assert "8/255" in case.attrib["name"]


def test_what_was_not_measured_has_no_number() -> None:
    assert set(properties(only(parsed(row("void"), bound=0.0)))) == {"key"}


def test_a_bound_fails_a_cell_only_below_it() -> None:
    assert only(parsed(row(), bound=31.2)).find("failure") is None
    assert only(parsed(row())).find("failure") is None
    failure = only(parsed(row(), bound=31.3)).find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "robust 31.2 (20.0-44.0) is below 31.3"


def test_the_name_of_a_cell_does_not_depend_on_the_others() -> None:
    alone = only(parsed(row(settings="attack.steps=1")))
    first = next(parsed(row(settings="attack.steps=1"), row()).iter("testcase"))
    assert alone.attrib == first.attrib


@settings(max_examples=100)
@given(
    st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(["failed", "skipped"])
)
def test_no_name_or_reason_breaks_the_file(text: str, state: str) -> None:
    root = parsed(row(state, defense=text, settings=text, note=text), suite=text)
    assert len(list(root.iter("testcase"))) == 1


def test_markup_in_a_name_stays_text() -> None:
    name = "a<b>&\"'\x00]]>.py:f"
    case = only(parsed(row(defense=name)))
    assert case.attrib["classname"] == name.replace("\x00", "\N{REPLACEMENT CHARACTER}")
