"""Threat models: exact radii, and names whatever their case."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.threat import (
    Access,
    Norm,
    ThreatModel,
    format_eps,
    parse_access,
    parse_eps,
    parse_norm,
)
from bench.errors import UsageError

RADII = st.fractions(min_value=0, max_value=1, max_denominator=10**7)


@settings(deadline=None)
@given(RADII)
def test_what_is_written_is_read_back_exactly(eps: Fraction) -> None:
    assert parse_eps(format_eps(eps), Norm.LINF) == eps


@settings(deadline=None)
@given(st.integers(0, 255))
def test_255ths_are_written_as_such_or_as_a_short_decimal(k: int) -> None:
    text = format_eps(Fraction(k, 255))
    assert parse_eps(text, Norm.LINF) == Fraction(k, 255)
    if Fraction(k, 255).denominator in (5, 1):
        assert "/" not in text
    else:
        assert text == f"{k}/255"


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_decimals_stay_decimals_and_exact(k: int) -> None:
    text = format_eps(Fraction(k, 10**6))
    assert "/" not in text
    assert parse_eps(text, Norm.LINF) == Fraction(k, 10**6)


@settings(deadline=None)
@given(st.fractions(min_value=0, max_value=1000, max_denominator=1000))
def test_an_l2_radius_may_be_larger_than_one(eps: Fraction) -> None:
    assert parse_eps(str(eps), Norm.L2) == eps
    assert parse_eps(format_eps(eps), Norm.L2) == eps


@pytest.mark.parametrize("text", ["1.234567", "1.0781250", "12.34567", "100.0001", "1234567"])
def test_a_radius_of_many_digits_is_not_rounded(text: str) -> None:
    """It is part of the key: two radii of one key would share one result."""
    assert Fraction(format_eps(Fraction(text))) == Fraction(text)


@settings(deadline=None)
@given(RADII, RADII)
def test_equal_texts_mean_equal_radii(one: Fraction, other: Fraction) -> None:
    assert (format_eps(one) == format_eps(other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "eps"),
    [("8/255", Fraction(8, 255)), ("16/510", Fraction(8, 255)), ("0.3", Fraction(3, 10)),
     (".3", Fraction(3, 10)), ("3e-1", Fraction(3, 10)), (" 8/255 ", Fraction(8, 255)),
     ("0", Fraction(0)), ("1", Fraction(1)), (0.3, Fraction(3, 10)), (1, Fraction(1))],
)  # fmt: skip
def test_radii_are_read_exactly(text: str | float, eps: Fraction) -> None:
    assert parse_eps(text, Norm.LINF) == eps


@pytest.mark.parametrize("text", ["inf", "INF", "Infinity", ".inf", float("inf")])
def test_no_bound(text: str | float) -> None:
    assert parse_eps(text, Norm.LINF) is None
    assert format_eps(None) == "inf"
    threat = ThreatModel(Norm.L2, None, Access.FULL)
    assert threat.radius == math.inf
    assert not threat.bounded


@pytest.mark.parametrize(
    "text", ["abc", "", " ", "1/0", "nan", "-inf", "8/", "/255", "8 / 255 / 2", "0x1", "8,255",
             "--1", float("nan")],
)  # fmt: skip
def test_what_is_no_radius_is_refused(text: str | float) -> None:
    with pytest.raises(UsageError, match="8/255"):
        parse_eps(text, Norm.LINF)


@pytest.mark.parametrize("text", ["-1", "-1/255", "-0.1"])
def test_a_negative_radius_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="0 or larger"):
        parse_eps(text, Norm.L2)


def test_an_linf_radius_in_255ths_is_refused_with_the_fraction() -> None:
    with pytest.raises(UsageError, match="Did you mean 8/255"):
        parse_eps("8", Norm.LINF)
    with pytest.raises(UsageError, match="larger than the whole pixel range"):
        parse_eps("256/255", Norm.LINF)
    assert parse_eps("8", Norm.L2) == 8
    assert parse_eps("255/255", Norm.LINF) == 1


def test_the_radius_is_the_nearest_float() -> None:
    threat = ThreatModel(Norm.LINF, Fraction(8, 255), Access.FULL)
    assert threat.radius == 8 / 255
    assert threat.bounded


@pytest.mark.parametrize("text", ["Linf", "linf", "LINF"])
def test_norms_have_any_case(text: str) -> None:
    assert parse_norm(text) is Norm.LINF
    assert parse_norm("l2") is Norm.L2


@pytest.mark.parametrize("access", Access)
def test_accesses_have_any_case(access: Access) -> None:
    assert parse_access(access.value) is access
    assert parse_access(access.value.upper()) is access


@pytest.mark.parametrize("text", ["", "L1", "inf"])
def test_an_unknown_norm(text: str) -> None:
    with pytest.raises(UsageError, match="Known: L2, Linf"):
        parse_norm(text)


def test_an_unknown_access() -> None:
    with pytest.raises(UsageError, match="Known: bpda, full, label, query, transfer"):
        parse_access("white")


@pytest.mark.parametrize(
    "text", ["1e309", "1e-9999999", "1e999999999", "1e-400", "9" * 31, "1/" + "9" * 400,
             "0.1234567890123456789", "1_0", "٣/255", "0." + "0" * 400 + "1", "1" * 30,
             "1e0005"],
)  # fmt: skip
def test_a_radius_that_no_float_or_cell_can_hold_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"8/255|Did you mean"):
        parse_eps(text, Norm.L2)


@pytest.mark.parametrize("text", ["1e-300", "1e300", "1e-9", "0e999", "1/" + "9" * 28])
def test_small_and_large_radii_are_kept_as_they_are(text: str) -> None:
    found = parse_eps(text, Norm.L2)
    assert found == Fraction(text)
    assert parse_eps(format_eps(found), Norm.L2) == found


@pytest.mark.parametrize(
    ("text", "meant"),
    [("0.03137254901960784", "8/255"), ("0.00784313725490196", "2/255"),
     ("0.0313725490196", "8/255"), (8 / 255, "8/255"), (16 / 255, "16/255")],
)  # fmt: skip
def test_a_fraction_that_was_rounded_is_asked_about(text: str | float, meant: str) -> None:
    with pytest.raises(UsageError, match=f"Did you mean {meant}\\?"):
        parse_eps(text, Norm.LINF)
