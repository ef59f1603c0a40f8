"""Other libraries on the same network, ball, steps, restarts and images."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.protocols import Images
from bench.core.threat import Access, Norm, ThreatModel
from bench_attacks.apgd import Apgd
from bench_attacks.bpda_eot import BpdaEot
from bench_attacks.pgd import Pgd, default_step
from bench_defenses.energies.langevin import LangevinPurifier, energy_gradient
from bench_defenses.none import Identity
from benchmarks.clock import Times, interleaved
from benchmarks.overhead import attacking
from benchmarks.replay import bare, recorded
from benchmarks.rows import Row, Settings
from benchmarks.subjects import Subject, subject

ITEM = "peers"
EPS = Fraction(1, 10)
PEERS = {
    "pyautoattack": "pyautoattack",
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "art": "adversarial-robustness-toolbox",
}
Run = Callable[[], Tensor]


def rows(settings: Settings) -> Iterator[Row]:
    """Measure PGD, APGD and BPDA+EOT; everything in one process, that of ``peer_python``."""
    if settings.peer_python and settings.peer_python != Path(sys.executable):
        yield from _elsewhere(settings, settings.peer_python)
        return
    found = subject(settings)
    n = settings.size(500, quick=32)
    for name, steps in (("pgd", 40), ("apgd", 50)):
        yield from _compared(settings, found, name, settings.size(steps, quick=3), n)
    yield _bpda(settings, found)


def _elsewhere(settings: Settings, python: Path) -> Iterator[Row]:
    """Let another interpreter measure this item and read its rows."""
    folder = settings.scratch / "peers"
    command = [str(python), "-m", "benchmarks", ITEM, "--output", str(folder)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [*command, "--quick"] if settings.quick else command,
        cwd=root,
        env={**os.environ, "BENCH_DATA": str(settings.data.resolve())},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    table = folder / f"{ITEM}.csv"
    if not table.is_file():  # a missed target ends with an exit code of its own
        reason = (
            f"{python.name} ended with code {done.returncode} and no rows: install purifybench "
            "and benchmarks/peers_requirements.txt in its environment"
        )
        yield Row(ITEM, "peers", reason=reason)
        return
    kinds = {field.name: str(field.type) for field in dataclasses.fields(Row)}
    with table.open(newline="") as file:
        for line in csv.DictReader(file):
            values = {
                name: _parsed(line[name], kind) for name, kind in kinds.items() if name in line
            }
            yield Row(**values)


def _parsed(text: str, kind: str) -> Any:
    if kind.startswith("float"):
        return float(text) if text else None
    return int(text) if kind == "int" else text


def _compared(
    settings: Settings, found: Subject, name: str, steps: int, n: int
) -> Iterator[Row]:
    """Compare one attack with each library that has it, and all with their bare passes."""
    images, net = found.images(n), found.classifier
    ours: Any = Pgd(steps=steps) if name == "pgd" else Apgd(steps=steps)
    runs: dict[str, Run] = {
        "bench": attacking(found.defense(Identity()), ours, Access.FULL, images, EPS)
    }
    for peer, library in PEERS.items():
        make = MAKERS.get((name, peer))
        if make is None:
            continue
        if importlib.util.find_spec(peer) is None:
            yield missing(f"{name}: {peer}", library)
            continue
        runs[peer] = make(net, images, float(EPS), steps)
    work: dict[str, Callable[[], object]] = {}
    did: dict[str, str] = {}
    for peer, run in runs.items():
        with recorded({"net": net}) as seen:
            x_adv = run()
        forward, backward = seen.counts()["net forward"], seen.counts()["net backward"]
        edition = f" {version(PEERS[peer])}" if peer in PEERS else ""
        did[peer] = (
            f"{peer}{edition}: {forward:,} forward, {backward:,} backward, leaves "
            f"{left(net, x_adv, images)} of {n} right, size {size(x_adv, images):.4f}"
        )
        work |= {peer: run, f"{peer} bare": bare(seen.passes, {"net": net}, images.x)}
    times = interleaved(work, repeats=min(3, settings.repeats))
    what = f"{name}, {steps} steps, eps {EPS}, {n} images"
    yield from _of_bare(times, runs, what, did)
    for peer in runs:
        if peer != "bench":
            yield times.ratio(
                peer, "bench", item=ITEM, what=f"{peer} / bench: {what}", at_least=1.0,
                checked=f"{did['bench']}; {did[peer]}",
                reason="bench drops images that are done from the batch, every ten steps",
            )  # fmt: skip


def _of_bare(
    times: Times, runs: Mapping[str, Run], what: str, did: Mapping[str, str]
) -> Iterator[Row]:
    for peer in runs:
        yield times.ratio(
            peer, f"{peer} bare", item=ITEM, what=f"{peer} / its own bare passes: {what}",
            checked=did[peer],
        )  # fmt: skip


def missing(what: str, library: str) -> Row:
    """Return a row that says how to install a missing library."""
    return Row(
        ITEM,
        what,
        reason=f"not installed: {library} is in benchmarks/peers_requirements.txt; install it "
        "in an environment of its own and give that by --peer-python",
    )


def left(net: nn.Module, x_adv: Tensor, images: Images) -> int:
    """Count the images that the network still classifies right."""
    with torch.no_grad():
        return int((net(x_adv).argmax(1) == images.y).sum())


def size(x_adv: Tensor, images: Images) -> float:
    """Return the largest Linf distance."""
    return float((x_adv.detach() - images.x).abs().max())


def _torchattacks_pgd(net: nn.Module, images: Images, eps: float, steps: int) -> Run:
    import torchattacks

    attack = torchattacks.PGD(net, eps=eps, alpha=2.5 * eps / steps, steps=steps)
    return lambda: attack(images.x, images.y)


def _foolbox_pgd(net: nn.Module, images: Images, eps: float, steps: int) -> Run:
    import foolbox

    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(
        steps=steps, abs_stepsize=2.5 * eps / steps, random_start=True
    )
    return lambda: attack(model, images.x, images.y, epsilons=eps)[1]


def _art(net: nn.Module, images: Images) -> Any:
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        classes = net(images.x[:1]).shape[1]
    return PyTorchClassifier(
        net, nn.CrossEntropyLoss(), input_shape=tuple(images.x.shape[1:]),
        nb_classes=classes, clip_values=(0.0, 1.0), device_type="cpu",
    )  # fmt: skip


def _art_pgd(net: nn.Module, images: Images, eps: float, steps: int) -> Run:
    from art.attacks.evasion import ProjectedGradientDescent

    attack = ProjectedGradientDescent(
        _art(net, images), eps=eps, eps_step=2.5 * eps / steps, max_iter=steps,
        num_random_init=1, batch_size=len(images), verbose=False,
    )  # fmt: skip
    return lambda: torch.from_numpy(attack.generate(images.x.numpy(), images.y.numpy()))


def _art_apgd(net: nn.Module, images: Images, eps: float, steps: int) -> Run:
    from art.attacks.evasion import AutoProjectedGradientDescent

    attack = AutoProjectedGradientDescent(
        _art(net, images), eps=eps, eps_step=2 * eps, max_iter=steps, nb_random_init=1,
        batch_size=len(images), loss_type="cross_entropy", verbose=False,
    )  # fmt: skip
    return lambda: torch.from_numpy(attack.generate(images.x.numpy(), images.y.numpy()))


def _torchattacks_apgd(net: nn.Module, images: Images, eps: float, steps: int) -> Run:
    import torchattacks

    attack = torchattacks.APGD(net, norm="Linf", eps=eps, steps=steps, n_restarts=1)
    return lambda: attack(images.x, images.y)


def _pyautoattack_apgd(net: nn.Module, images: Images, eps: float, steps: int) -> Run:
    from pyautoattack.autopgd_base import APGDAttack

    attack = APGDAttack(
        net, n_iter=steps, norm="Linf", n_restarts=1, eps=eps, loss="ce", device="cpu"
    )

    def run() -> Tensor:
        x_adv: Tensor = attack.perturb(images.x, images.y)
        return x_adv

    return run


MAKERS: dict[tuple[str, str], Callable[[nn.Module, Images, float, int], Run]] = {
    ("pgd", "torchattacks"): _torchattacks_pgd,
    ("pgd", "foolbox"): _foolbox_pgd,
    ("pgd", "art"): _art_pgd,
    ("apgd", "pyautoattack"): _pyautoattack_apgd,
    ("apgd", "torchattacks"): _torchattacks_apgd,
    ("apgd", "art"): _art_apgd,
}


def _bpda(settings: Settings, found: Subject) -> Row:
    """Compare BPDA+EOT with the loop over draws in which it is written in the literature."""
    n, steps, draws = (
        settings.size(50, quick=4), settings.size(20, quick=2), settings.size(15, quick=3)
    )  # fmt: skip
    defense, images, eps = found.defense(), found.images(n), found.eps
    ours = attacking(defense, BpdaEot(steps=steps, eot=draws), Access.BPDA, images, eps)
    threat = ThreatModel(Norm.LINF, eps, Access.BPDA)
    step_size = default_step(images.x, threat, steps)

    def loop() -> Tensor:
        return bpda_loop(
            found, images, eps=float(eps), steps=steps, draws=draws, step_size=step_size
        )

    did, passes = [], []
    for name, run in (("bench", ours), ("the loop", loop)):
        with recorded(defense.networks()) as seen:
            x_adv = run()
        passes.append(sum(seen.counts().values()))
        did.append(f"{name}: {passes[-1]:,} passes, size {size(x_adv, images):.4f}")
    return interleaved({"loop": loop, "bench": ours}, repeats=min(2, settings.repeats)).ratio(
        "loop",
        "bench",
        item=ITEM,
        what=f"plain loop / bench: BPDA+EOT, {steps} steps of {draws} draws, {n} images behind "
        "10 Langevin steps",
        at_least=1.0,
        checked="; ".join(did),
        reason=f"the loop makes {passes[1] / passes[0]:.2f} times the passes of bench, which "
        "votes three times beside its gradients; it draws by torch.randn, bench a stream per "
        "image and draw",
    )


def bpda_loop(
    found: Subject, images: Images, *, eps: float, steps: int, draws: int, step_size: float
) -> Tensor:
    """Attack as Hill, Mitchell and Zhu 2021 do: one purification and gradient after another."""
    purifier, x = found.purifier, images.x
    x_adv = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        gradient = torch.zeros_like(x)
        for _ in range(draws):
            leaf = _purified(purifier, x_adv).requires_grad_()
            loss = nn.functional.cross_entropy(
                found.classifier(leaf), images.y, reduction="sum"
            )
            gradient += torch.autograd.grad(loss, leaf)[0] / draws
        x_adv = x_adv + step_size * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv


def _purified(purifier: LangevinPurifier, x: Tensor) -> Tensor:
    for _ in range(purifier.steps):
        slope = energy_gradient(purifier.energy, x)
        x = x - purifier.step_size * slope + purifier.noise * torch.randn_like(x)
        x = x.clamp(0, 1)
    return x.detach()
