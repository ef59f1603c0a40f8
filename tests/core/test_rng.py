"""Random numbers: known answers, and that nothing but seed, purpose, image and draw matters."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from types import ModuleType
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given, settings
from scipy import stats
from torch import Tensor

from bench.core.philox_torch import encrypted
from bench.core.rng import Rng, _one_kernel, _philox_on_cpu

# The vectors that ship with Random123, "kat_vectors": counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip

indices = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6, unique=True)
shapes = st.sampled_from([(1, 8, 8), (3, 5, 7), (2,), (1, 1, 1)])
purposes = st.lists(st.one_of(st.text(max_size=5), st.integers()), max_size=3)


def distinct(rows: Tensor) -> int:
    return len({tuple(row) for row in rows.flatten(1).tolist()})


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize("encrypt", [_philox_on_cpu, encrypted])
@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_gives_the_published_answers(
    counter: str, key: str, result: str, encrypt: Any
) -> None:
    c0, c1, c2, c3 = (torch.tensor([[word]]) for word in words(counter))
    k0, k1 = words(key)
    assert encrypt((c0, c1, c2, c3), (k0, k1)).tolist() == [[words(result)]]


@pytest.mark.parametrize("shape", [(3,), (1, 2, 2), (16_000,), (70_000,)])
def test_torch_encrypts_at_once_what_numpy_does_piece_by_piece(shape: tuple[int, ...]) -> None:
    rng = Rng.seeded(7, [0, -1, 2**40, 5, 2**63 - 1]).repeat(2).fork("both")
    with patch("bench.core.rng._philox_on_cpu", encrypted):
        expected = rng.bits(shape)
    assert torch.equal(rng.bits(shape), expected)
    assert distinct(expected) == 10


@settings(deadline=None)
@given(images=indices, seed=st.integers(), purpose=purposes)
def test_torch_encrypts_as_numpy_does_whatever_key_and_counter(
    images: list[int], seed: int, purpose: list[str | int]
) -> None:
    rng = Rng.seeded(seed, images).fork(*purpose)
    given = rng._counter(2), rng._words_of_key()
    assert torch.equal(encrypted(*given), _philox_on_cpu(*given))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(), images=indices, shape=shapes, data=st.data())
def test_a_row_depends_on_no_other_row(
    seed: int, images: list[int], shape: tuple[int, ...], data: st.DataObject
) -> None:
    together = Rng.seeded(seed, images).normal(shape)
    order = data.draw(st.permutations(range(len(images))))
    shuffled = Rng.seeded(seed, [images[i] for i in order]).normal(shape)
    assert torch.equal(shuffled, together[torch.tensor(order)])
    for row, image in zip(together, images, strict=True):
        assert torch.equal(Rng.seeded(seed, [image]).normal(shape)[0], row)
    assert torch.equal(Rng.seeded(seed, images)[1:].normal(shape), together[1:])
    assert distinct(together) == len(images)  # every stream is another


@pytest.mark.parametrize("kind", ["normal_like", "uniform_like", "sign_like"])
def test_the_numbers_are_the_same_in_every_dtype(kind: str) -> None:
    rng = Rng.seeded(3, [5, 7])
    x = torch.zeros(2, 3, 9, 9)
    single, double = (getattr(rng, kind)(x.to(d)) for d in (torch.float32, torch.float64))
    assert single.dtype == torch.float32
    assert double.dtype == torch.float64
    assert torch.equal(single.double(), double)


def test_a_longer_draw_begins_with_the_shorter() -> None:
    rng = Rng.seeded(0, [4])
    assert torch.equal(rng.bits((64,))[:, :7], rng.bits((7,)))


@settings(deadline=None)
@given(seed=st.integers(), one=purposes, other=purposes)
@example(seed=0, one=["1"], other=[1])
@example(seed=0, one=["a", "b"], other=["ab"])
def test_equal_purposes_alone_give_equal_streams(
    seed: int, one: list[str | int], other: list[str | int]
) -> None:
    rng = Rng.seeded(seed, [0])
    drawn = [rng.fork(*purpose).bits((8,)) for purpose in (one, other)]
    same = [(type(p), p) for p in one] == [(type(p), p) for p in other]
    assert torch.equal(*drawn) == same


def test_forks_are_independent() -> None:
    rng = Rng.seeded(0, [1])
    streams = [rng, rng.fork("attack"), rng.fork("judge"), rng.fork("attack").fork("judge")]
    drawn = torch.stack([stream.normal((40_000,))[0] for stream in streams])
    correlation = torch.corrcoef(drawn) - torch.eye(len(streams))
    assert correlation.abs().max() < 5 / 200  # five standard deviations


def test_draw_j_of_ten_is_draw_j_of_fifty() -> None:
    rng = Rng.seeded(1, [3, -8])
    ten, fifty = (rng.repeat(n).normal((2, 2)).reshape(2, n, 2, 2) for n in (10, 50))
    assert torch.equal(fifty[:, :10], ten)
    assert distinct(fifty.flatten(0, 1)) == 100


def test_one_draw_is_the_stream_itself() -> None:
    rng = Rng.seeded(1, [3, 4])
    assert torch.equal(rng.repeat(1).bits((8,)), rng.bits((8,)))


def test_draws_of_draws_are_all_different() -> None:
    nested = Rng.seeded(0, [0, 1]).repeat(4).repeat(3)
    assert distinct(nested.bits((4,))) == 24


def test_normals_are_normal() -> None:
    x = Rng.seeded(0, list(range(50))).normal((4000,)).double().flatten()
    assert abs(float(x.mean())) < 5 / len(x) ** 0.5
    assert float(x.var()) == pytest.approx(1, abs=0.015)
    assert float((x**4).mean()) == pytest.approx(3, abs=0.12)
    assert float(x.abs().max()) <= 4.5
    assert stats.kstest(x.numpy(), stats.norm.cdf).pvalue > 1e-3


def test_uniforms_are_uniform_and_stay_below_one() -> None:
    x = Rng.seeded(0, list(range(50))).uniform((4000,)).flatten()
    assert float(x.min()) >= 0
    assert float(x.max()) < 1
    assert stats.kstest(x.numpy(), stats.uniform.cdf).pvalue > 1e-3


def test_the_largest_word_gives_a_uniform_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rng, "bits", lambda rng, shape: torch.tensor([2**32 - 1]))
    assert float(Rng.seeded(0, [0]).uniform(())) < 1


def test_signs_are_fair() -> None:
    x = Rng.seeded(0, [9]).sign_like(torch.zeros(1, 40_000))
    assert set(x[0].tolist()) == {-1.0, 1.0}
    assert abs(float(x.mean())) < 5 / 200


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    def draw() -> Tensor:
        rng = Rng.seeded(0, [1, 2]).fork("x").repeat(2)
        return torch.cat([rng.normal((5,)), rng.uniform((5,)), rng.bits((5,)).float()])

    torch.manual_seed(0)
    first = draw()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(draw(), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_negative_and_huge_indices_have_streams_of_their_own() -> None:
    images = [-1, 0, 1, 2**32 - 1, 2**32, 2**32 + 1, -(2**32), 2**63 - 1, -(2**63)]
    rows = Rng.seeded(0, images).bits((4,))
    assert distinct(rows) == len(images)
    assert int(rows.min()) >= 0
    assert int(rows.max()) < 2**32


IN_TRITON = """
import torch
from bench.core.rng import Rng, _normal_table, _one_kernel

cpu = torch.device("cpu")
draw, table, drawn = _one_kernel(cpu), _normal_table(cpu), 0
assert draw is not None
images = [0, 1, 2**31 + 3, 2**40 + 7, -1, 2**63 - 1, -(2**63)]
for purpose in range(4):  # keys with words above and below 2**31
    rng = Rng.seeded(7, images).fork(purpose).repeat(2)[::3]
    for shape in [(3, 7, 8), (1, 28, 28), (5,), (), (0,)] if purpose == 0 else [(5,)]:
        for kind in ("bits", "uniform", "normal"):
            found = draw(kind, rng._images, rng._draws, key=rng._key, shape=shape, table=table)
            expected = getattr(rng, kind)(shape)
            assert found.dtype == expected.dtype, (kind, shape)
            assert found.shape == expected.shape, (kind, shape)
            assert torch.equal(found, expected), (kind, shape)
            drawn += found.numel()
print("drawn", drawn)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton")
def test_the_one_kernel_of_a_gpu_draws_the_numbers_of_the_cpu() -> None:
    """In Triton's interpreter, which needs no GPU."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_TRITON],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["drawn", str(3 * 5 * (168 + 784 + 5 + 1) + 3 * 3 * 5 * 5)]


def plain(kind: str, images: Tensor, draws: Tensor, *, key: int, **rest: Any) -> Tensor:
    found: Tensor = getattr(Rng(key, images, draws), kind)(rest["shape"])
    return found


def off(kind: str, images: Tensor, draws: Tensor, **rest: Any) -> Tensor:
    return plain(kind, images, draws, **rest).nextafter(torch.tensor(9.0))


def broken(*given: Any, **rest: Any) -> Tensor:
    raise RuntimeError("Failed to find C compiler.")


@pytest.mark.parametrize(
    ("draw", "used"), [(plain, True), (off, False), (broken, False), (None, False)]
)
def test_a_kernel_that_fails_or_draws_other_numbers_is_not_used(
    draw: Any, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = ModuleType("philox_triton")
    if draw is not None:
        stub.draw = draw
    monkeypatch.setitem(sys.modules, "bench.core.philox_triton", stub)
    found = _one_kernel.__wrapped__(torch.device("cpu"))
    assert found is (draw if used else None)


def test_a_cpu_never_asks_for_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.core.rng._one_kernel", lambda device: pytest.fail("asked"))
    assert len(Rng.seeded(0, [1]).normal((3,)).flatten()) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_the_numbers_of_the_cpu() -> None:
    device = torch.device("cuda")
    images = list(range(64))
    here = Rng.seeded(7, images).fork("x").repeat(3)
    there = Rng.seeded(7, images, device=device).fork("x").repeat(3)
    for shape in [(3, 32, 32), (1, 28, 28), (5,)]:
        assert torch.equal(there.normal(shape).cpu(), here.normal(shape))
        assert torch.equal(there.uniform(shape).cpu(), here.uniform(shape))
        assert torch.equal(there.bits(shape).cpu(), here.bits(shape))


def test_what_a_stream_is_for_cannot_be_read_off() -> None:
    rng = Rng.seeded(123, [4567, 89]).fork("judge").repeat(2)
    shown = {name for name in dir(rng) if not name.startswith("_")}
    assert not {name for name in shown if not callable(getattr(rng, name))} - {"device"}
    assert not {"key", "images", "draws"} & shown
    assert "4567" not in repr(rng)
    assert not hasattr(rng, "__dict__")
