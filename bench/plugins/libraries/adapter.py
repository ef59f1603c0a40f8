"""An attack of another library as a plugin, whose images are projected onto ball and box."""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from bench.core.geometry import per_image, project, size
from bench.core.isolation import generator_states, isolated
from bench.core.protocols import Calls, View
from bench.core.rng import Rng
from bench.core.threat import Access, ThreatModel
from bench.errors import AttackWarning, PluginError
from bench.plugins.libraries.library import OURS, Job, Known, Library
from bench.plugins.libraries.model import ViewModel
from bench.plugins.libraries.settable import settable

_GRADIENT = (Access.FULL, Access.BPDA, Access.TRANSFER)
_QUERY = (Access.QUERY, Access.TRANSFER)
_SAID = (UserWarning, RuntimeWarning)  # what of a library's warnings is about the images
_MANY = 0.01  # of the pixels of all gradients: beyond it a flag says so

# Sizes of a step, the numbers of steps that they belong to, and what is used instead where set.
_STEPS = (
    ("alpha", "steps", ""),  # torchattacks; FFGSM takes one
    ("lr", "nb_iter", ""),  # SPSA of torchattacks: Adam moves a pixel by its rate at most
    ("eps_step", "max_iter", ""),  # ART
    ("abs_stepsize", "steps", ""),
    ("absolute_step_size", "steps", ""),
)
_STEPS_IN_RADII = (
    ("rel_stepsize", "steps", "abs_stepsize"),  # foolbox
    ("relative_step_size", "steps", "absolute_step_size"),  # adv-lib
)
_ONE_STEP = ("FFGSM",)


@dataclass(frozen=True)
class LibraryAttack:
    """An attack of another library, whose images are projected onto ball and box.

    ``library`` is the version that ran. ``eot`` draws are averaged, as logits, for whatever
    the library asks of a stochastic view. What the library draws comes from generators that
    are seeded for the block. A pixel whose gradient is NaN stays; an image that comes back as
    NaN is replaced by the clean one. Both, and that there was noise, come as AttackWarning.
    """

    revision: ClassVar[int] = 1
    of: ClassVar[Library]
    known: ClassVar[Known]
    make: ClassVar[Any]
    not_parameters: ClassVar[Mapping[str, str]] = OURS

    library: str
    eot: int

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return what the library proposes for x (N, C, H, W) against y (N,), in the ball."""
        if threat.eps == 0 or len(x) == 0:
            return x.clone()
        with torch.no_grad():
            classes = view.classify(x[:1]).shape[1]
        params = self._params()
        model = ViewModel(
            view,
            x,
            draws=self.eot if view.stochastic else 1,
            rng=rng.fork("library"),
            norm=threat.norm,
            steady=self.known.steady,
        )
        seed = int(rng[:1].fork("generators").bits((1,)))  # the block's: of its first image
        job = Job(
            type(self).make, self.known, model, x.clone(), y.clone(),
            norm=threat.norm, radius=threat.radius, classes=classes, seed=seed, params=params,
        )  # fmt: skip
        flags = list(odd_steps(type(self).__name__, params, threat.radius))
        with isolated(seed), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            before = generator_states()
            x_adv = self._proposed(job).detach().to(x)
            if generator_states() != before:
                flags.append(f"attack's noise by block ({self.library})")
        flags += [f"{one.message}" for one in caught if one.category in _SAID]
        if model.share_lost() > _MANY:
            flags.append(
                f"the gradient was NaN or infinite at {model.share_lost():.0%} of the pixels, "
                "which the library could not use"
            )
        broken = x_adv.isnan().flatten(1).any(1)
        if bool(broken.any()):
            flags.append(f"{self.library} returned NaN for {int(broken.sum())} images")
            x_adv = torch.where(per_image(broken, x), x, x_adv)
        for text in dict.fromkeys(flags):
            warnings.warn(text, AttackWarning, stacklevel=2)
        inside = size((x_adv - x).double(), threat.norm) <= threat.radius
        # What is inside stays to the bit: the nearest broken image may lie on the border.
        inside &= (x_adv == x_adv.clamp(0, 1)).flatten(1).all(1)
        shown = project(x_adv, x, threat.norm, threat.radius)
        return torch.where(per_image(inside, x), x_adv, shown)

    def _proposed(self, job: Job) -> Tensor:
        try:
            return self.of.run(job)
        except ModuleNotFoundError as error:
            raise PluginError(
                f"{type(self).__name__} of {self.library} needs {error.name}, which is not "
                f"installed. Install it: pip install {error.name}"
            ) from error

    def calls(self, *, stochastic: bool, classes: int) -> Calls | None:
        """Bound the cost of one image, by what the library's source does at most.

        None for parameters with which it may go on for ever.
        """
        asked = types.SimpleNamespace(**self._params(), classes=classes)
        rows = self.known.rows
        if not isinstance(rows, int):
            try:
                rows = math.ceil(rows(asked))
            except (ArithmeticError, ValueError):
                return None
        rows *= self.eot if stochastic else 1
        return Calls(forward=1 + rows) if self.known.query else Calls(forward=1, backward=rows)

    def _params(self) -> dict[str, Any]:
        names = [one.name for one in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if name not in ("library", "eot")}


def adapted(library: Library, name: str) -> type[LibraryAttack]:
    """Make the plugin of a library's attack; raises BenchError."""
    make, known, edition = library.find(name), library.known[name], library.edition()
    set_elsewhere = {key: why for key, why in OURS.items() if key not in known.own}

    def installed(asked: str) -> str:
        if asked != edition:
            raise ValueError(f"the images are those of {asked}, but {edition} is installed")
        return asked

    fields = [
        ("library", Annotated[str, AfterValidator(installed)], field(default=edition)),
        ("eot", Annotated[int, Field(ge=1)], field(default=10)),
        *settable(make, but=set_elsewhere),
    ]
    words = (inspect.getdoc(make) or name).partition("\n\n")[0].split()
    sentence = " ".join(words).partition(". ")[0].rstrip(".")
    about = {
        "__doc__": f"{sentence} ({library.distribution}).\n\n{inspect.getdoc(LibraryAttack)}",
        "norms": known.norms,
        "accesses": _QUERY if known.query else _GRADIENT,
        "unbounded": known.minimal,
        "not_parameters": set_elsewhere,
        "of": library,
        "known": known,
        "make": make,
    }
    return dataclasses.make_dataclass(
        name, fields, bases=(LibraryAttack,), namespace=about, frozen=True, kw_only=True
    )


def odd_steps(name: str, params: Mapping[str, Any], radius: float) -> Iterator[str]:
    """Name the steps that are too short or too long: libraries do not fit them to the ball."""
    if math.isinf(radius):
        return
    for pairs, whole in ((_STEPS, radius), (_STEPS_IN_RADII, 1.0)):
        for size_of, number, instead in pairs:
            step = params.get(size_of)
            steps = 1 if name in _ONE_STEP else params.get(number)
            if step is None or steps is None or params.get(instead) is not None:
                continue
            if step * steps < whole:
                few = "1 step" if steps == 1 else f"{steps} steps"
                which = size_of if name in _ONE_STEP else f"{size_of} or attack.{number}"
                yield (
                    f"{few} of {size_of} {step:.3g} do not cross eps {radius:.3g}: set "
                    f"attack.{which} higher"
                )
            elif step > 2 * whole:
                yield (
                    f"{size_of} {step:.3g} is more than twice eps {radius:.3g}: set "
                    f"attack.{size_of} lower"
                )
