"""What is below a bound, by the number that tables print."""

from __future__ import annotations

import pytest

from bench.errors import UsageError
from bench.results.bound import is_below, parse_percent, shortfall
from bench.results.render import text_of

NONE = None


def rows_of(*rows: tuple[str, str, float | None]) -> list[dict[str, object]]:
    names = ("attack", "state", "robust")
    more = {"defense": "ebm", "dataset": "digits"}
    return [
        {**dict(zip(names, row, strict=True)), **more, "key": f"{n:016x}"}
        for n, row in enumerate(rows)
    ]


@pytest.mark.parametrize(
    "text", ["-1", "101", "100.01", "-0.1", "abc", "nan", "inf", "", "4,5"]
)
def test_a_bound_that_is_no_percentage_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="give a percentage from 0 to 100") as error:
        parse_percent(text)
    assert repr(text) in str(error.value)
    assert str(error.value).count(". ") == 0


@pytest.mark.parametrize(("text", "bound"), [("0", 0), ("100", 100), ("40.5", 40.5)])
def test_a_bound_is_read(text: str, bound: float) -> None:
    assert parse_percent(text) == bound


@pytest.mark.parametrize("robust", [0.0, 39.94, 39.96, 40.0, 40.04, 99.99, 100.0])
def test_what_is_compared_is_what_is_printed(robust: float) -> None:
    printed = float(text_of(robust))
    assert not is_below(robust, printed)
    assert is_below(robust, printed + 0.01)


def test_a_row_that_reaches_the_bound_is_no_shortfall() -> None:
    rows = rows_of(("pgd", "done", 40.0), ("apgd", "done", 55.0), ("rays", "skipped", NONE))
    assert shortfall(rows, 40.0) is None
    assert shortfall(rows, 40.1) == (
        "robust accuracy below 40.1 in 1 of 2 cells: ebm under pgd (40.0)"
    )


@pytest.mark.parametrize("state", ["void", "failed", "damaged", "unfinished"])
def test_a_row_without_a_number_is_below_every_bound(state: str) -> None:
    said = shortfall(rows_of(("pgd", "done", 90.0), ("apgd", state, NONE)), 0.0)
    assert said == f"robust accuracy below 0 in 1 of 2 cells: ebm under apgd ({state})"


def test_nothing_measured_is_no_pass() -> None:
    assert "nothing was measured" in str(shortfall(rows_of(("pgd", "skipped", NONE)), 0.0))
    assert "nothing was measured" in str(shortfall(rows_of(), 0.0))


def test_a_long_list_is_one_short_line() -> None:
    said = shortfall(rows_of(*[(f"attack{n}", "done", float(n)) for n in range(30)]), 99.0)
    assert said is not None
    assert "in 30 of 30 cells" in said
    assert said.endswith("attack4 (4.0), ...")
    assert "\n" not in said
