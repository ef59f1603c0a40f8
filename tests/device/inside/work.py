"""What is around attacks, on the simulated device: judge, cells, trainings, audit."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from bench.audit import energies, gradients, loss_surface, same_defense, votes
from bench.audit.findings import Finding
from bench.audit.subject import Subject
from bench.audit.toys import Quantizer
from bench.core.defense import Defense
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.data.load import load_test
from bench.evaluation.early_stopping import looks
from bench.evaluation.judge import judge
from bench.evaluation.run import Prepared, run_cell
from bench.models.train import _count_on_cpu
from bench.models.trainable import Trainable, Training
from bench.plugins.catalogue import build, catalogue, parameters, plugin
from bench.results.cell import Cell, Part
from bench.results.progress import finish
from bench.results.store import Store
from bench.results.workspace import Workspace
from bench_attacks.pgd import Pgd
from bench_defenses.bit_depth import BitDepth
from bench_defenses.jpeg import Jpeg
from bench_defenses.median import Median
from tests.cells import classifier, langevin, prepared
from tests.device.ledger import LEDGER
from tests.device.simulated import CPU, DEVICE, MixedError, Simulated
from tests.device.subjects import held, images, small, task

BALL = ThreatModel(Norm.LINF, Fraction(3, 20), Access.FULL)


@pytest.fixture(autouse=True, scope="module")
def _tables() -> None:
    """Make what the device keeps for its random numbers, for which the host waits once."""
    Rng.seeded(0, [0], device=DEVICE).normal((1,))


def test_tensors_of_two_devices_are_refused_and_waits_are_counted() -> None:
    x = torch.ones(2).to(DEVICE)
    with pytest.raises(MixedError, match="on the same device"):
        x + torch.ones(2)
    assert held(x + torch.tensor(1.0)).tolist() == [2.0, 2.0]
    LEDGER.reset()
    assert float(x.sum()) == 2.0
    assert len(x[x > 0]) == 2
    assert sum(LEDGER.waits.values()) == 2
    assert all("work.py" in place for place in LEDGER.waits)


def test_a_backward_pass_has_a_thread_of_its_own() -> None:
    x = torch.ones(2).to(DEVICE).requires_grad_()
    total = (x * x).sum()
    LEDGER.reset()
    torch.autograd.grad(total, x)
    assert LEDGER.threads - {threading.get_ident()}


@pytest.mark.parametrize("sequential", [False, True])
def test_a_judge_has_the_cpus_verdicts_and_waits_twice_a_look(sequential: bool) -> None:
    shown, draws = images(6), 20
    here = Defense(langevin(), classifier())
    there = Defense(langevin().to(DEVICE), classifier().to(DEVICE))
    found = []
    for defense, seen in ((here, shown), (there, shown.to(DEVICE))):
        x_adv = (seen.x + 0.1 * torch.ones_like(seen.x)).clamp(0, 1)
        LEDGER.reset()
        found.append(
            judge(
                defense, seen.x, seen.y, x_adv, threat=BALL, draws=draws,
                rng=Rng.seeded(0, seen.indices).fork("judge"), sequential=sequential,
            )
        )  # fmt: skip
    # Whether values are sound, once a block; which images need more draws, once a look.
    asked = 2 * (2 * len(looks(draws)) - 1 if sequential else 1)
    assert 0 < sum(LEDGER.waits.values()) <= asked, LEDGER.waits
    for name, value in vars(found[0]).items():
        assert torch.equal(held(getattr(found[1], name)), value), name


def test_a_cell_goes_on_and_has_the_cpus_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for device in (CPU, DEVICE):
        made = prepared(attack=Pgd(steps=2, eot=2), n=8, draws=3)
        made = dataclasses.replace(made, defense=made.defense.to(device))
        root = tmp_path / device.type
        workspace = Workspace(Store(root), root, root, device)
        if device == DEVICE:  # stopped after the first block
            with monkeypatch.context() as patch:
                patch.setattr(Store, "append", _stopping(Store.append))
                with pytest.raises(KeyboardInterrupt):
                    finish(run_cell(made, workspace=workspace))
        finish(run_cell(made, workspace=workspace))
        rows.append(pd.read_parquet(workspace.store.outcomes(made.cell.key())))
    pd.testing.assert_frame_equal(*rows, check_exact=True)


def _stopping(append: Callable[..., None]) -> Callable[..., None]:
    def stop(*given: Any) -> None:
        append(*given)
        raise KeyboardInterrupt

    return stop


def trainables() -> dict[str, Any]:
    """Build every plugin with a training of its own, small; those that share one once."""
    found: dict[str, Any] = {}
    for kind in ("defenses", "classifiers"):
        for name in sorted(catalogue(kind)):
            made = plugin(kind, name)()
            if isinstance(made, Trainable):
                found.setdefault(getattr(made, "trained_as", name), small(made))
    return found


def moved(state: Any, to: torch.device) -> Any:
    """Move all tensors of a saved state, as torch.load does by map_location."""
    if isinstance(state, dict):
        return {key: moved(value, to) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(moved(value, to) for value in state)
    if not isinstance(state, Tensor):
        return state
    own = held(state).clone(memory_format=torch.preserve_format)
    return own if to == CPU else Simulated(own)


def advanced(run: Training) -> int:
    """Do an iteration, and count its waits."""
    LEDGER.reset()
    run.advance()
    return sum(LEDGER.waits.values())


@pytest.mark.parametrize("name", sorted(trainables()))
def test_a_training_goes_on_as_on_a_cpu_and_waits_no_more_than_before(name: str) -> None:
    made = trainables()[name]
    here, there = made.start(task(CPU)), made.start(task(DEVICE))
    here.advance()
    advanced(there)
    kept = moved(there.state(), CPU)
    waits = advanced(there)
    again = made.start(task(DEVICE))
    state = moved(kept, DEVICE)
    _count_on_cpu(state)
    again.restore(state)
    assert advanced(again) <= waits
    here.advance()
    for key, value in there.weights().items():
        assert torch.equal(held(again.weights()[key]), held(value)), key
        close = torch.allclose(held(value).float(), here.weights()[key].float(), atol=1e-3)
        assert close, key
    assert set(there.evaluate()) == set(here.evaluate())


CHECKS: tuple[Callable[[Subject], Finding], ...] = (
    gradients.gradient_exists,
    gradients.bpda_is_not_full,
    gradients.gradient_is_right,
    loss_surface.loss_is_not_saturated,
    loss_surface.eot_is_stable,
    loss_surface.surface_is_smooth,
    votes.resubmission,
    votes.verdicts_repeat,
    votes.eight_bits_suffice,
    energies.energy_tells_attacks,
    same_defense.same_defense_for_all,
)


def subject(device: torch.device, root: Path) -> Subject:
    """Put a small defense under audit, on a device."""
    settings = {"steps": 2, "eot": 2}
    attack, pixels = build("attacks", "apgd", settings), load_test("digits", root=Path())
    cell = Cell(
        "digits", pixels.digest, 4, 4, Part("small_cnn", {}, 1, "fitted"),
        Part("langevin", {}, 1), Part("apgd", parameters(attack), 1), BALL, 0, 3,
    )  # fmt: skip
    defense = Defense(langevin().to(device), classifier().to(device))
    workspace = Workspace(Store(root / "audit"), root, root, device)
    return Subject(
        Prepared(cell, defense, attack, pixels), workspace, Store(root / "results"), settings
    )


def test_an_audit_finds_what_it_finds_on_a_cpu(tmp_path: Path) -> None:
    here, there = (subject(one, tmp_path / one.type) for one in (CPU, DEVICE))
    for check in CHECKS:
        expected, found = check(here), check(there)
        assert found.state is expected.state, found


def test_a_median_s_gradient_adds_by_no_atomics() -> None:
    x = torch.rand(2, 1, 8, 8).to(DEVICE).requires_grad_()
    LEDGER.reset()
    torch.autograd.grad(Median(size=5).purify(x, rng=Rng.seeded(0, [0, 1])).sum(), x)
    assert not [name for name in LEDGER.kernels if "pad" in name or "scatter_add" in name]


@pytest.mark.parametrize("purifier", [BitDepth(bits=3), Jpeg(), Quantizer(3)], ids=repr)
def test_levels_are_not_divided_by_a_number(purifier: Any) -> None:
    x = images(2).x
    rng = Rng.seeded(0, [0, 1])
    LEDGER.reset()
    found = purifier.purify(x.to(DEVICE), rng=rng)
    assert "division by a number" not in LEDGER.kernels
    assert torch.equal(held(found), purifier.purify(x, rng=rng))
    found / 7
    assert "division by a number" in LEDGER.kernels
