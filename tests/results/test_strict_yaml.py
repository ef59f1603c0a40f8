"""YAML of plans and settings: numbers of YAML 1.2, no tags, and an end to everything."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.errors import UsageError
from bench.results.strict_yaml import parse, read_file


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("-5", -5), ("+5", 5), ("0", 0), ("0.5", 0.5), (".5", 0.5), ("5.", 5.0),
     ("1e-3", 0.001), ("1E3", 1000.0), ("true", True), ("False", False), ("null", None),
     ("~", None), ("", None), (".inf", math.inf), ("-.INF", -math.inf), ("8/255", "8/255"),
     ("yes", "yes"), ("on", "on"), ("1:30", "1:30"), ("0x10", "0x10"), ("1_000", "1_000"),
     ("2020-13-45", "2020-13-45"), ("=", "="), ("'5'", "5"), ('"true"', "true"),
     ("[1, [a]]", [1, ["a"]]), ("{a: 1, 2: b}", {"a": 1, "2": "b"}),
     ("{<<: {a: 1}}", {"<<": {"a": 1}}), ("[&x {a: 1}, *x]", [{"a": 1}, {"a": 1}])],
)  # fmt: skip
def test_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse(text)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_read() -> None:
    assert math.isnan(parse(".nan"))


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 12)]
    return "\n".join(lines)


FAULTS = {
    "a leading zero": ("010", "without leading zeros"),
    "leading zeros": ("-00.5", "without leading zeros"),
    "too many digits": ("9" * 31, "too long"),
    "an exponent of four digits": ("1e1000", "too long"),
    "beyond every float": ("1e400", "not kept exactly"),
    "a number that would be 0": ("1e-400", "not kept exactly"),
    "more digits than a float has": ("0.10000000000000000001", "not kept exactly"),
    "half of a surrogate pair": ('"\\ud800"', "no text"),
    "half of a pair in a key": ('{"\\udc00": 1}', "no text"),
    "a tag": ("!!int x", "tags such as"),
    "an object": ("!!python/object/apply:os.getcwd []", "tags such as"),
    "a tag of a list": ("!!set {a, b}", "tags such as"),
    "a key twice": ("a: 1\nb: 1\na: 2", "'a' is written twice(?s:.*)line 3"),
    "a key twice, quoted": ("{1: 1, '1': 2}", "'1' is written twice"),
    "a list for a key": ("{[a]: 1}", "a key has to be text"),
    "a key without end": (f"? {'k' * 300}\n: 1", "a key has to be text"),
    "text without end": (f"'{'x' * 10_001}'", "more than 10,000 characters"),
    "nesting": ("[" * 5000, "nested more than 20"),
    "nested mappings": ("{a: " * 100, "nested more than 20"),
    "itself": ("&a [*a]", "within what it names"),
    "itself, deep": ("&a {b: [{c: *a}]}", "within what it names"),
    "an alias bomb": (bomb(), "more than 10,000 values"),
    "30,000 keys": ("\n".join(f"k{i}: 1" for i in range(30_000)), "more than"),
    "300 keys": ("\n".join(f"k{i}: 1" for i in range(300)), "more than 200 keys"),
}


@pytest.mark.parametrize(("text", "said"), FAULTS.values(), ids=list(FAULTS))
def test_what_is_refused_is_named(text: str, said: str) -> None:
    with pytest.raises(yaml.YAMLError, match=said) as caught:
        parse(text)
    assert len(str(caught.value)) < 500


def test_a_large_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    with path.open("wb") as file:
        file.truncate(10 * 2**40)  # sparse: reading it whole would fail
    with pytest.raises(UsageError, match="larger than 256 KiB"):
        read_file(path)
    path.write_text("a: 1\n" + "#" * (256 * 1024 - 5))
    assert read_file(path) == {"a": 1}


def test_devices_and_pipes_are_not_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(UsageError, match="not a regular file"):
            read_file(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 300, "cannot read the plan"),
        ("a\0b", "cannot read the plan"),
        ("missing", "there is no plan"),
    ],
)
def test_a_path_that_cannot_be_is_one_sentence(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_file(tmp_path / name)
