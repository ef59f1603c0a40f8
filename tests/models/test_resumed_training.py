"""A training that was interrupted goes on, and a damaged state of it is begun anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bench.models.train
from bench.results.store import Store
from bench.results.workspace import Workspace
from bench_defenses.energies.contrastive import ContrastiveDivergence

from .test_train import EBM, trained


def interrupted(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stop a training after its second iteration, with a state on the disk."""
    with monkeypatch.context() as patch:
        patch.setattr(bench.models.train, "_SAVE_EVERY_S", -1.0)
        advance = ContrastiveDivergence.advance

        def dying(self: ContrastiveDivergence) -> None:
            if self.step == 2:
                raise KeyboardInterrupt
            advance(self)

        patch.setattr(ContrastiveDivergence, "advance", dying)
        with pytest.raises(KeyboardInterrupt):
            trained("ebm", EBM, workspace)
    (state,) = (workspace.store.root / "training").iterdir()
    return state


def of_another_version(kept: dict[str, Any]) -> None:
    """A state whose network has other layers, as after a change without a new revision."""
    kept["run"]["net"] = {"stranger": torch.zeros(1)}


def without_optimizer(kept: dict[str, Any]) -> None:
    kept["run"]["optimizer"]["param_groups"] = []


def of_another_shape(kept: dict[str, Any]) -> None:
    """An optimiser takes such a state, and raises at its first step."""
    for slot in kept["run"]["optimizer"]["state"].values():
        slot["exp_avg"] = torch.zeros(3, 5)


def beyond_its_end(kept: dict[str, Any]) -> None:
    kept["run"]["step"] = 1000


def of_no_number(kept: dict[str, Any]) -> None:
    kept["seconds"] = None


SPOILT = {
    "net": of_another_version,
    "optimizer": without_optimizer,
    "shape": of_another_shape,
    "beyond": beyond_its_end,
    "seconds": of_no_number,
}


class OnGpu(Tensor):
    """A tensor that is not on the CPU until it is asked to be."""

    def cpu(self, *given: Any, **more: Any) -> Tensor:
        return self.as_subclass(Tensor)


@pytest.mark.parametrize("fast", [False, True])
def test_a_resumed_optimiser_counts_on_the_cpu(
    fast: bool, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where torch.load puts its counters on a GPU with all the rest; not those of fast ones."""
    interrupted(workspace, monkeypatch)
    load, seen = torch.load, []

    def loaded(*given: Any, **more: Any) -> Any:
        kept = load(*given, **more)
        for slot in kept["run"]["optimizer"]["state"].values():
            slot.update({name: value.as_subclass(OnGpu) for name, value in slot.items()})
        kept["run"]["optimizer"]["param_groups"][0]["capturable"] = fast
        return kept

    def spied(self: ContrastiveDivergence, state: dict[str, Any]) -> None:
        seen.extend(state["optimizer"]["state"].values())
        raise ValueError("seen enough")

    monkeypatch.setattr(torch, "load", loaded)
    monkeypatch.setattr(ContrastiveDivergence, "restore", spied)
    trained("ebm", EBM, workspace)
    assert len(seen) > 2
    for slot in seen:
        assert isinstance(slot["step"], OnGpu) == fast
        assert isinstance(slot["exp_avg"], OnGpu)


@pytest.mark.parametrize("damage", ["cut", "empty", "page", "pickle", "key", "list", *SPOILT])
def test_a_state_that_is_damaged_is_begun_anew(
    damage: str, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = interrupted(workspace, monkeypatch)
    kept = torch.load(state, weights_only=True)
    assert kept["run"]["step"] == 2
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-500])
    elif damage == "empty":
        state.write_bytes(b"")
    elif damage == "page":
        state.write_text("<html>")
    elif damage == "pickle":
        torch.save({"run": Path("a pickle that torch does not know")}, state)
    elif damage == "key":
        torch.save({"seconds": 1.0}, state)
    elif damage == "list":
        torch.save([1, 2], state)
    else:
        SPOILT[damage](kept)
        torch.save(kept, state)
    clean = dataclasses.replace(workspace, store=Store(tmp_path / "clean"))
    assert trained("ebm", EBM, workspace).digest == trained("ebm", EBM, clean).digest
    assert not state.exists()
