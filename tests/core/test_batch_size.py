"""Blocks that do not fit the memory are done again in smaller ones, on the same numbers."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bench.core import batch_size as batch
from bench.core.access import view_of
from bench.core.batch_size import in_blocks, rows_per_pass
from bench.core.defense import Defense
from bench.core.eot import averaged_gradient, averaged_loss
from bench.core.losses import cross_entropy
from bench.core.passes import count_passes
from bench.core.rng import Rng
from bench.core.threat import Access
from bench.evaluation.judge import vote
from bench.evaluation.run import Prepared, run_cell
from bench.figures.images import purified
from bench.results.files import read_json
from bench.results.progress import finish
from bench.results.workspace import Workspace
from bench_attacks._targets import first_look
from bench_attacks.adaptive import purification_shift
from bench_defenses.none import Identity

from ..cells import CPU, about, assert_equal, at, classifier, prepared, rows, stop_after
from ..command import NOISE, Bench
from ..little_memory import Memory, N, digits, hungry

LABELS = torch.arange(N) % 10


@pytest.fixture(autouse=True)
def _own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process-wide number begins anew for each test."""
    monkeypatch.setattr(batch, "_found", {})


def indices(memory: Memory, n: int, *, draws: int) -> list[int]:
    """The images of all blocks, done on a device of so much memory."""

    def work(block: slice) -> list[int]:
        found = list(range(n))[block]
        memory.take(len(found) * draws)
        return found

    return [i for part in in_blocks(work, n, draws=draws, device=CPU) for i in part]


def test_the_start_is_what_was_measured() -> None:
    assert rows_per_pass(CPU) == 128
    assert rows_per_pass(torch.device("cuda")) == rows_per_pass(torch.device("cuda:1")) == 8192


def test_blocks_halve_and_later_ones_do_not_meet_it_again() -> None:
    memory = Memory(holds=40)
    assert indices(memory, 100, draws=1) == list(range(100))
    assert memory.tried == [100, 64, 32, 32, 32, 4]
    assert rows_per_pass(CPU) == 32
    assert rows_per_pass(torch.device("cuda")) == 8192  # another memory
    memory.tried.clear()
    assert indices(memory, 40, draws=3) == list(range(40))
    assert memory.tried == [30, 30, 30, 30]


@given(
    n=st.integers(0, 40),
    draws=st.integers(1, 9),
    holds=st.integers(1, 300),
    before=st.sampled_from([128, 64, 32, 5, 1]),
)
def test_every_image_is_done_once_in_order(n: int, draws: int, holds: int, before: int) -> None:
    memory = Memory(holds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "_found", {"cpu": before})
        patch.setattr(batch, "_give_back", lambda device: None)  # slow, a hundred times
        if n and holds < draws:
            with pytest.raises(torch.OutOfMemoryError):
                indices(memory, n, draws=draws)
            assert rows_per_pass(CPU) == before, "what did not help is not remembered"
            assert memory.tried[-1] == draws
            return
        assert indices(memory, n, draws=draws) == list(range(n))
        failed = [rows for rows in memory.tried if rows > holds]
        assert failed == sorted(set(failed), reverse=True), "the same failed twice"
        assert memory.tried[: len(failed)] == failed, "a later block met it again"
        assert rows_per_pass(CPU) in {before >> k for k in range(8)}
        memory.tried.clear()
        assert indices(memory, n, draws=draws) == list(range(n))
        assert max(memory.tried, default=0) <= holds


def test_one_image_that_does_not_fit_is_raised_and_slows_nothing_else_down() -> None:
    memory = Memory(holds=9)
    with pytest.raises(torch.OutOfMemoryError, match="no memory for 10 rows"):
        indices(memory, 5, draws=10)
    assert memory.tried == [50, 30, 10]
    assert rows_per_pass(CPU) == 128


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), MemoryError(), ValueError("x")])
def test_other_errors_pass_and_the_number_stays(error: Exception) -> None:
    calls = []

    def work(block: slice) -> None:
        calls.append(block)
        raise error

    with pytest.raises(type(error)) as met:
        in_blocks(work, 5, draws=1, device=CPU)
    assert met.value is error
    assert len(calls) == 1
    assert rows_per_pass(CPU) == 128


@pytest.mark.parametrize("cyclic", [False, True])
def test_what_failed_is_gone_before_the_next_try(cyclic: bool) -> None:
    """Also where a frame keeps the error, whose traceback keeps the frame."""
    failed: list[weakref.ref[Tensor]] = []

    def work(block: slice) -> Tensor:
        assert all(found() is None for found in failed)
        tensor = torch.zeros(block.stop - block.start)
        if len(tensor) > 2:
            failed.append(weakref.ref(tensor))
            if not cyclic:
                raise torch.OutOfMemoryError
            error = torch.OutOfMemoryError()
            raise error
        return tensor

    assert [len(part) for part in in_blocks(work, 7, draws=1, device=CPU)] == [2, 2, 2, 1]
    assert len(failed) == 2


def test_memory_is_given_back_to_cuda_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    failed: list[weakref.ref[Tensor]] = []

    def emptied() -> None:
        assert failed[-1]() is None, "the cache cannot give back what is still in use"
        said.append("emptied")

    monkeypatch.setattr(torch.cuda, "empty_cache", emptied)

    def work(block: slice) -> None:
        tensor = torch.zeros(block.stop - block.start)
        said.append(f"{len(tensor)}")
        if len(tensor) > 3:
            failed.append(weakref.ref(tensor))
            raise torch.OutOfMemoryError

    in_blocks(work, 6, draws=2000, device=torch.device("cuda"))
    assert said == ["4", "emptied", "2", "2", "2"]
    assert rows_per_pass(torch.device("cuda", 0)) == 4096


Measured = dict[str, Tensor]


def by_gradient(defense: Defense, x: Tensor, rng: Rng) -> Measured:
    view = view_of(defense, Access.FULL)
    found = averaged_gradient(view, x, LABELS, loss=cross_entropy, draws=3, rng=rng)
    return vars(found)


def by_loss(defense: Defense, x: Tensor, rng: Rng) -> Measured:
    view = view_of(defense, Access.QUERY)
    return vars(averaged_loss(view, x, LABELS, loss=cross_entropy, draws=3, rng=rng))


def by_vote(defense: Defense, x: Tensor, rng: Rng) -> Measured:
    return vars(vote(defense, x, LABELS, draws=3, rng=rng))


def by_early_vote(defense: Defense, x: Tensor, rng: Rng) -> Measured:
    return vars(vote(defense, x, LABELS, draws=50, rng=rng, sequential=True))


def by_first_look(defense: Defense, x: Tensor, rng: Rng) -> Measured:
    best, order = first_look(view_of(defense, Access.QUERY), x, LABELS, votes=3, rng=rng)
    return {**vars(best), "order": order}


@pytest.mark.parametrize(
    "measure", [by_gradient, by_loss, by_vote, by_early_vote, by_first_look]
)
def test_halving_changes_no_random_number(
    measure: Callable[[Defense, Tensor, Rng], Measured],
) -> None:
    rng = Rng.seeded(0, torch.arange(N))
    rich, defense = hungry(10**6)
    expected = measure(defense, digits(), rng)
    batch._found = {}
    poor, defense = hungry(50 if measure is by_early_vote else 7)
    found = measure(defense, digits(), rng)
    assert max(poor.memory.tried) > poor.memory.holds, "nothing failed: the case tells nothing"
    assert poor.drawn == rich.drawn
    assert all(len(numbers) == 1 for numbers in poor.drawn.values())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)
    for name in {"votes", "wrong"} & expected.keys():
        assert torch.equal(found[name], expected[name])


def test_the_shift_of_an_adaptive_step_shrinks_too() -> None:
    memory, (purifier, defense) = Memory(holds=7), hungry(10**6)
    view, x, rng = view_of(defense, Access.FULL), digits(), Rng.seeded(0, torch.arange(N))
    expected = purification_shift(view, x, 3, rng)
    step = purifier.step

    def takes(x: Tensor, *, rng: Rng) -> Tensor:
        memory.take(len(x))
        return step(x, rng=rng)

    purifier.step = takes  # type: ignore[method-assign]  # a device of little memory
    torch.testing.assert_close(purification_shift(view, x, 3, rng), expected)
    assert memory.tried == [12, 8, *[4] * 9]


class Overflow(torch.autograd.Function):
    """The identity, whose gradient needs memory."""

    @staticmethod
    def forward(ctx: object, x: Tensor, memory: Memory) -> Tensor:
        ctx.memory = memory
        return x.clone()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.memory.take(len(gradients[0]))
        return gradients[0], None


def test_memory_may_end_on_the_way_back() -> None:
    memory = Memory(holds=7)

    class Deep:
        stochastic, differentiable = False, True

        def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
            return Overflow.apply(x, memory)

    x, rng = digits(), Rng.seeded(0, torch.arange(N))
    found = by_gradient(Defense(Deep(), classifier(torch.float64)), x, rng)["gradient"]
    assert memory.tried == [36, 30, 15, 6, 6, 6, 6, 6, 6]
    leaf = x.clone().requires_grad_()
    loss = cross_entropy(classifier(torch.float64)(leaf), LABELS).sum()
    (expected,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(found, expected)


def test_passes_of_a_try_that_failed_are_counted() -> None:
    memory = Memory(holds=10)
    defense = Defense(Identity(), classifier(torch.float64))
    defense.classifier.register_forward_hook(lambda _, args, out: memory.take(len(args[0])))
    with count_passes(defense.networks()) as passes:
        by_loss(defense, digits(), Rng.seeded(0, torch.arange(N)))
    assert memory.tried == [36, 30, 15, 6, 6, 6, 6, 6, 6]
    assert passes["classifier forward"] == sum(memory.tried)


def test_a_cell_of_little_memory_has_the_rows_of_small_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(holds: int, folder: str) -> tuple[Prepared, Memory, pd.DataFrame]:
        purifier, _ = hungry(holds)
        made = prepared(purifier, dtype=torch.float64, eps=Fraction(1, 20))
        return made, purifier.memory, rows(made, at(tmp_path / folder))

    _, memory, large = found(10**6, "large")
    assert max(memory.tried) == 4 * 5
    made, memory, halved = found(5, "halved")
    failed = [rows for rows in memory.tried if rows > 5]
    assert failed == [8], "met once, by the attack, and then never again"
    assert about(made, at(tmp_path / "halved"))["rows per pass"] == 4
    assert about(made, at(tmp_path / "large"))["rows per pass"] == 128

    monkeypatch.setattr(batch, "_found", {"cpu": 4})
    _, memory, small = found(5, "small")
    assert max(memory.tried) == 5
    assert_equal(halved, small)
    exact = ["index", "label", "legal", "clean", "robust", "clean_votes", "votes"]
    assert_equal(halved[exact], large[exact])
    assert 0 < halved["robust"].sum() < halved["clean"].sum(), "the case tells nothing"


def test_provenance_has_the_fewest_rows_of_all_shards(workspace: Workspace) -> None:
    made, numbers = prepared(n=12, shard=4), iter([64, 16, 32, 128])
    for _ in run_cell(made, workspace=workspace):
        batch._found["cpu"] = next(numbers)
    assert about(made, workspace)["rows per pass"] == 16


def test_a_cell_begun_before_rows_were_recorded_is_finished(workspace: Workspace) -> None:
    made = prepared(n=12, shard=4)
    stop_after(made, workspace, shards=3)  # all shards, not yet joined
    for start in (0, 8):
        path = workspace.store.shard(made.cell.key(), start).with_suffix(".json")
        record = read_json(path)
        del record["rows per pass"]
        path.write_text(json.dumps(record))
    finish(run_cell(made, workspace=workspace))
    assert about(made, workspace)["rows per pass"] == 128


def test_figures_are_measured_in_smaller_blocks_too() -> None:
    purifier, defense = hungry(5)
    made = replace(prepared(dtype=torch.float64), defense=defense)
    x, rng = digits(), Rng.seeded(0, torch.arange(N))
    cleaned = purified(made, x, rng=rng)
    assert purifier.memory.tried == [12, 8, 4, 4, 4]
    torch.testing.assert_close(cleaned[3:8], defense.purifier.purify(x[3:8], rng=rng[3:8]))


HUGE = '''
from dataclasses import dataclass
from typing import ClassVar
import torch

@dataclass(frozen=True)
class Huge:
    """No memory holds a single image."""
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def purify(self, x, *, rng):
        raise torch.OutOfMemoryError("CUDA out of memory")
'''


def test_an_image_that_does_not_fit_fails_the_cell_and_says_what_to_do(
    bench: Bench, install: Callable[..., Path]
) -> None:
    install("huge", "huge_bench", HUGE, "[bench.defenses]\nhuge = huge_bench:Huge\n")
    said = bench("run", "--defense=huge", *NOISE)
    assert said.code == 1
    text = " ".join(said.err.split())
    assert "memory does not hold one image with all its draws" in text
    assert "(--draws, attack.eot), a smaller --shard" in text
    assert "Traceback" not in text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_that_is_really_full() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    held = torch.cuda.mem_get_info(device)[1] // 4  # bytes an image: five never fit
    tried: list[int] = []

    def work(block: slice) -> int:
        tried.append(block.stop - block.start)
        torch.empty((tried[-1], held), dtype=torch.uint8, device=device)
        return tried[-1]

    # Whether two fit depends on who else is there.
    parts = in_blocks(work, 8, draws=1024, device=device)
    assert sum(parts) == 8
    assert tried[0] == 8
    assert parts[0] < 5
    assert rows_per_pass(device) < 8192
    torch.cuda.empty_cache()
