"""Benchmarks compare what did the same work. Nothing here depends on how long it took."""

from __future__ import annotations

import copy
import csv
import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.core.access import view_of
from bench.core.defense import Defense
from bench.core.eot import averaged_gradient
from bench.core.losses import cross_entropy
from bench.core.passes import count_passes
from bench.core.rng import Rng
from bench.core.threat import Access
from bench_defenses.energies.langevin import LangevinPurifier
from benchmarks import peers
from benchmarks.__main__ import ITEMS, main
from benchmarks.clock import interleaved
from benchmarks.eot import looped
from benchmarks.full_gradient import gradient
from benchmarks.growth import exponent, memory_by_images, slope
from benchmarks.replay import bare, noise_alone, recorded
from benchmarks.report import as_csv, as_markdown, machine
from benchmarks.rows import Row, Settings
from benchmarks.subjects import Subject, made

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(quick=True, data=tmp_path / "none", scratch=tmp_path)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return made((1, 8, 8), width=4, n=32)


def measured(item: str, settings: Settings) -> list[Row]:
    rows = list(importlib.import_module(f"benchmarks.{item}").rows(settings))
    assert rows
    for row in rows:
        assert row.item == item
        assert row.what
        assert row.value is None or row.value >= 0 or item == "growth"
        if row.low is not None and row.high is not None and row.value is not None:
            assert row.low <= row.value <= row.high
        assert row.value is not None or row.reason
        assert "NOT" not in row.checked, row
    return rows


def test_overheads_are_of_equal_passes(settings: Settings) -> None:
    rows = measured("overhead", settings)
    assert len(rows) == 8
    assert all("counted in the replay: the same" in row.checked for row in rows)
    assert [row.at_most for row in rows] == [1.05] * 4 + [None] * 4
    assert all("normal numbers" in row.reason for row in rows[4:])


def test_overheads_are_measured_on_the_devices_that_are_named(settings: Settings) -> None:
    asked = replace(settings, devices=("cpu:0",))
    assert all(
        "on cpu:0" in row.what
        for row in importlib.import_module("benchmarks.overhead").rows(asked)
    )


def test_folded_draws_pass_as_often_as_looped_ones_but_for_a_shared_first_step(
    settings: Settings,
) -> None:
    noise, steps = measured("eot", settings)
    assert "passes equal: 160 classifier backward" in noise.checked
    assert "looped: 160 classifier backward" in steps.checked
    assert f"{8 * 10 * 20:,} energy backward" in steps.checked
    assert f"{8 * (9 * 20 + 1):,} energy backward" in steps.checked


def test_purifiers_share_one_attack(settings: Settings) -> None:
    for row in measured("sharing", settings):
        assert row.checked.startswith("attacks made: 1; ")
        assert row.checked.endswith(": equal")


@pytest.mark.slow
def test_a_ladder_ends_with_equal_verdicts_for_fewer_passes(settings: Settings) -> None:
    passes, time = measured("ladder", settings)
    assert passes.checked.startswith("verdicts that differ: 0 of")
    assert "robust in the end: 0 and" not in passes.checked  # else there is nothing to tell
    assert passes.value is not None
    assert passes.value > 1
    assert time.checked == passes.checked


def test_sequential_judging_ends_with_equal_verdicts(settings: Settings) -> None:
    passes, _ = measured("sequential", settings)
    assert passes.checked.startswith("verdicts that differ: 0 of")
    assert passes.value is not None
    assert passes.value > 1


def test_searches_are_judged_alike(settings: Settings) -> None:
    (row,) = measured("search", settings)
    assert row.what.startswith("float32 / bfloat16 on cpu")
    assert row.checked.startswith("verdicts that differ: ")
    assert "robust: 0 and" not in row.checked  # else there is nothing to tell


def test_layouts_and_sizes_of_a_pass_are_compared(settings: Settings) -> None:
    classifier, energy, *switches, sizes = measured("layout", settings)
    assert "of the classifier" in classifier.what
    assert "of the energy" in energy.what
    for row in switches:
        assert row.what.startswith(("without oneDNN / usual", "denormals as zero / usual"))
    assert len(switches) == 4
    assert sizes.what.startswith("32 / 128 rows a pass on cpu")
    assert sizes.checked.startswith("verdicts that rounding changed: ")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="needs Linux's /proc")
def test_the_exact_gradient_keeps_states_alone(settings: Settings) -> None:
    found = {row.what: row for row in measured("full_gradient", settings)}
    (exact,) = (
        row for what, row in found.items() if what.startswith("exact gradient on cpu: memory a")
    )
    (plain,) = (
        row for what, row in found.items() if what.startswith("plain autograd on cpu: memory a")
    )
    assert exact.holds == "yes"
    assert exact.value is not None
    assert plain.value is not None
    assert plain.value > 10 * exact.value


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="needs Linux's /proc")
def test_more_images_take_no_more_memory(settings: Settings) -> None:
    row = memory_by_images(settings)
    assert row.holds == "yes", row


def test_training_has_steps_and_passes(settings: Settings) -> None:
    units = {row.unit for row in measured("training", settings)}
    assert units == {"ratio", "steps/s"}


@pytest.fixture(scope="module")
def peers_here(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("peers")
    return measured("peers", Settings(quick=True, data=folder / "none", scratch=folder))


def test_peers_stay_in_the_ball_or_say_how_to_get_them(peers_here: list[Row]) -> None:
    rows = peers_here
    for row in rows:
        if row.value is None:
            assert "--peer-python" in row.reason
    said = [row.checked for row in rows if row.what.startswith("pyautoattack / bench")]
    assert len(said) == 1
    sizes = [float(part.split(";")[0]) for part in said[0].split("size ")[1:]]
    assert len(sizes) == 2
    assert all(size <= float(peers.EPS) + 1e-4 for size in sizes)


def test_peers_are_measured_by_another_interpreter(
    settings: Settings, peers_here: list[Row]
) -> None:
    """Its rows come back as they were, whatever it has."""
    elsewhere = settings.scratch / "python"
    elsewhere.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    elsewhere.chmod(0o755)
    rows = measured("peers", replace(settings, peer_python=elsewhere))
    assert any(row.value is not None and row.at_least == 1.0 for row in rows)
    assert {row.what for row in rows} == {row.what for row in peers_here}


def test_an_interpreter_without_the_peers_is_one_row(settings: Settings) -> None:
    elsewhere = settings.scratch / "python"
    elsewhere.write_text("#!/bin/sh\nexit 3\n")
    elsewhere.chmod(0o755)
    (row,) = peers.rows(replace(settings, peer_python=elsewhere))
    assert row.value is None
    assert "python ended with code 3 and no rows: install purifybench" in row.reason


@pytest.mark.parametrize("access", [Access.FULL, Access.BPDA, Access.TRANSFER, Access.QUERY])
def test_a_replay_makes_the_counted_passes(subject: Subject, access: Access) -> None:
    defense, images = subject.defense(), subject.images(3)
    rng = Rng.seeded(0, images.indices)

    def work() -> None:
        view = view_of(defense, access)
        if access is Access.QUERY:
            view(images.x, rng=rng)
        else:
            averaged_gradient(view, images.x, images.y, loss=cross_entropy, draws=2, rng=rng)

    with count_passes(defense.networks()) as counts:
        work()
    with recorded(defense.networks()) as seen:
        work()
    assert seen.counts() == counts
    assert seen.numbers() == (0 if access is Access.TRANSFER else
                              10 * 64 * (3 if access is Access.QUERY else 6))  # fmt: skip
    replay = bare(seen.passes, defense.networks(), images.x)
    with count_passes(defense.networks()) as again:
        replay()
    assert again == counts
    with recorded(defense.networks()) as noise:
        noise_alone(seen.noise)()
    assert noise.noise == seen.noise
    assert not noise.passes


def test_recording_ends_with_its_block(subject: Subject) -> None:
    defense, normal = subject.defense(), Rng.normal
    with pytest.raises(ZeroDivisionError), recorded(defense.networks()):
        raise ZeroDivisionError
    assert Rng.normal is normal
    assert not any(net._forward_pre_hooks for net in defense.networks().values())


def test_the_loop_over_draws_gives_the_folded_gradient(subject: Subject) -> None:
    images = subject.images(4)
    rng = Rng.seeded(0, images.indices)
    energy = copy.deepcopy(subject.energy).double()
    defense = Defense(
        LangevinPurifier(energy, steps=2, step_size=5.0, noise=0.05),
        copy.deepcopy(subject.classifier).double(),
    )
    try:
        view, x = view_of(defense, Access.FULL), images.x.double()
        folded = averaged_gradient(view, x, images.y, loss=cross_entropy, draws=3, rng=rng)
        torch.testing.assert_close(looped(view, x, images.y, draws=3, rng=rng), folded.gradient)
    finally:
        defense.float()


def test_plain_autograd_gives_the_exact_gradient(subject: Subject) -> None:
    one, other = (gradient(subject, 5, 4, "cpu", exact=exact)() for exact in (True, False))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_fits_find_what_a_power_law_is_made_of() -> None:
    assert exponent({10: 3 * 10**1.5, 100: 3 * 100**1.5, 1000: 3 * 1000**1.5}) == pytest.approx(
        1.5
    )
    assert slope({1: 5.0, 2: 7.0, 10: 23.0}) == pytest.approx(2.0)


def test_things_take_turns_and_the_first_round_is_not_counted() -> None:
    order: list[str] = []

    def write(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    times = interleaved({name: write(name) for name in "ab"}, repeats=2)
    assert order == ["a", "b"] * 3
    assert {name: len(found) for name, found in times.wall.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("row", "target", "holds"),
    [
        (Row("i", "w", 1.05, at_most=1.05), "at most 1.05", "yes"),
        (Row("i", "w", 1.06, at_most=1.05), "at most 1.05", "NO"),
        (Row("i", "w", 4.0, at_least=4.0), "at least 4", "yes"),
        (Row("i", "w", 3.9, at_least=4.0), "at least 4", "NO"),
        (Row("i", "w", 3.9), "", ""),
        (Row("i", "w", None, at_least=4.0), "at least 4", ""),
    ],
)
def test_a_target_holds_or_not(row: Row, target: str, holds: str) -> None:
    assert (row.target, row.holds) == (target, holds)


def test_the_table_has_every_row_and_the_machine() -> None:
    rows = [
        Row("one", "a | b", 1.234567, low=1.0, high=2.0, cpu=1.2, repeats=5, at_most=1.0),
        Row("two", "c", reason="not installed"),
    ]
    page = as_markdown(rows, devices=("cpu",), quick=True)
    assert "| a / b | 1.23 | 1 to 2 (5) | 1.2 | at most 1 | NO |" in page
    assert "| c | none |" in page
    assert machine(("cpu",)) in page
    assert "the times mean nothing" in page
    for name in ("date: 20", "commit: ", "torch "):
        assert name in page
    first, second = csv.DictReader(as_csv(rows).splitlines())
    assert (float(first["value"]), first["holds"], first["what"]) == (1.234567, "NO", "a | b")
    assert (second["value"], second["reason"]) == ("", "not installed")


def test_one_command_writes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # it sets that, and here it has to be unset
    words = ["sequential", "--quick", f"--output={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["__main__.py", *words])
    assert main() == 0
    lines = list(csv.DictReader((tmp_path / "sequential.csv").read_text().splitlines()))
    assert {line["item"] for line in lines} == {"sequential"}
    assert "## sequential" in (tmp_path / "sequential.md").read_text()
    assert (
        "`python -m benchmarks sequential --quick" in (tmp_path / "sequential.md").read_text()
    )
    assert str(tmp_path) not in (tmp_path / "sequential.md").read_text()


def test_it_is_a_command() -> None:
    words = [sys.executable, "-m", "benchmarks", "--help"]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=True)
    assert "usage: python -m benchmarks" in done.stdout


def test_an_unknown_item_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["sequentail"])
    assert stop.value.code == 2
    assert "no item is called sequentail. Known: overhead, eot" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["overhead", "--device", "cuda:99"])
    assert "device 'cuda:99'" in capsys.readouterr().err


def test_every_item_is_a_file_of_its_own() -> None:
    for item in ITEMS:
        assert callable(importlib.import_module(f"benchmarks.{item}").rows)
