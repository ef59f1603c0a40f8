"""An attack of another library as a plugin: parameters from its signature, images projected."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from bench.core.geometry import per_image, project, size
from bench.core.isolation import generator_states, isolated
from bench.core.protocols import Calls, View
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.errors import AttackWarning, PluginError, UsageError, unknown_name
from bench.plugins.libraries.model import ViewModel

BOTH, LINF, L2 = (Norm.LINF, Norm.L2), (Norm.LINF,), (Norm.L2,)
_GRADIENT = (Access.FULL, Access.BPDA, Access.TRANSFER)
_QUERY = (Access.QUERY, Access.TRANSFER)
_PLAIN = (bool, int, float, str, type(None))
_SAID = (UserWarning, RuntimeWarning)  # what of a library's warnings is about the images
_MANY = 0.01  # of the pixels of all gradients: beyond it a flag says so

# What the harness sets, under the names that libraries have for it, and why nobody else does.
_RADIUS, _NORMS = ("eps", "ε", "max_epsilon"), ("norm", "p")
OURS: dict[str, str] = {
    **dict.fromkeys(_RADIUS, "the radius is that of --eps"),
    **dict.fromkeys((*_NORMS, "constraint", "distance"), "the norm is that of --norm"),
    "targeted": "an image counts as broken whatever it is mistaken for",
    "seed": "it is derived from --seed",
    "n_classes": "it is known from the classifier",
    "batch_size": "a block is attacked at once; --shard sets its size",
    **dict.fromkeys(
        ("verbose", "callback", "tensorboard", "summary_writer", "parallel_pool_size"),
        "it changes no image",
    ),
    **dict.fromkeys(
        ("return_unsuccessful", "return_targets"), "the judge needs images and nothing else"
    ),
}
# Sizes of a step, in pixels or in radii, and the numbers of steps that they belong to.
_STEPS = (("alpha", "steps"), ("eps_step", "max_iter"), ("abs_stepsize", "steps"))
_STEPS_IN_RADII = (("rel_stepsize", "steps"), ("relative_step_size", "steps"))


@dataclass(frozen=True)
class Known:
    """What must be known of a library's attack: its norms and the rows that an image costs.

    ``rows`` bounds them, from the parameters and ``classes``. ``query``: the attack needs no
    gradient. ``minimal``: it looks for the nearest broken image, so that it needs no radius.
    ``steady``: it fails where the same image gets another answer. ``own``: parameters of the
    attack's own that are called as one of the harness.
    """

    norms: tuple[Norm, ...]
    rows: Callable[[Any], float] | int
    query: bool = False
    minimal: bool = False
    steady: bool = False
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One block to attack: images x (N, C, H, W), labels y (N,), and all that is set."""

    make: Any  # the library's class or function
    known: Known
    model: ViewModel
    x: Tensor
    y: Tensor
    norm: Norm
    radius: float
    classes: int
    seed: int
    params: Mapping[str, Any]

    def arguments(self, norm: object) -> dict[str, Any]:
        """Write the parameters with what the harness sets, where the signature has it.

        ``norm`` is the norm as this library writes it.
        """
        ours = {
            **dict.fromkeys(_RADIUS, self.radius),
            **dict.fromkeys(_NORMS, norm),
            "targeted": False,
            "verbose": False,
            "seed": self.seed,
            "n_classes": self.classes,
            "batch_size": len(self.x),
        }
        names = inspect.signature(self.make).parameters
        return {**{name: ours[name] for name in names if name in ours}, **self.params}


@dataclass(frozen=True)
class Library:
    """A library: its distribution, the module with its attacks, and how one of them runs.

    ``refused`` says why attacks that it has cannot run here.
    """

    prefix: str
    distribution: str
    module: str
    known: Mapping[str, Known]
    run: Callable[[Job], Tensor]
    refused: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""  # what to know when installing it

    def load(self) -> Any:
        """Import the module; raises BenchError where it is missing or broken."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a library's own imports
                return importlib.import_module(self.module)
        except ImportError as error:
            top = self.module.partition(".")[0]
            if isinstance(error, ModuleNotFoundError) and error.name == top:
                raise UsageError(
                    f"{self.prefix}: attacks need {self.distribution}, which is not installed. "
                    f"Install it: pip install {self.distribution}{self.hint}"
                ) from error
            raise self._broken(error) from error
        except (Exception, SystemExit) as error:  # whatever a module raises on import
            raise self._broken(error) from error

    def _broken(self, error: BaseException) -> PluginError:
        return PluginError(
            f"{self.edition()} cannot be imported: {type(error).__name__}: {error}. Install "
            f"what is missing, or repair it: pip install --force-reinstall {self.distribution}"
            f"{self.hint}"
        )

    def edition(self) -> str:
        """Name the distribution and its version."""
        try:
            return f"{self.distribution} {version(self.distribution)}"
        except PackageNotFoundError:
            return f"{self.distribution} of unknown version"

    def find(self, name: str) -> Any:
        """Return the library's class or function of an attack; raises BenchError."""
        module = self.load()
        if name in self.refused:
            raise UsageError(
                f"{self.prefix}:{name} cannot be measured here: {self.refused[name]}. Choose "
                f"another one: {', '.join(sorted(self.known))}."
            )
        known = [one for one in self.known if hasattr(module, one)]
        if name not in known:
            raise unknown_name(f"attack of {self.edition()}", name, known)
        return getattr(module, name)


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
        flags = list(_odd_steps(params, threat.radius))
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

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image, by what the library's source does at most."""
        asked = types.SimpleNamespace(**self._params(), classes=classes)
        known = self.known.rows
        rows = known if isinstance(known, int) else math.ceil(known(asked))
        rows *= self.eot if stochastic else 1
        return Calls(forward=1 + rows) if self.known.query else Calls(forward=1, backward=rows)

    def _params(self) -> dict[str, Any]:
        names = [one.name for one in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if name not in ("library", "eot")}


def adapted(library: Library, name: str) -> type[LibraryAttack]:
    """Make the plugin of a library's attack; raises BenchError."""
    make, known, edition = library.find(name), library.known[name], library.edition()

    def installed(asked: str) -> str:
        if asked != edition:
            raise ValueError(f"the images are those of {asked}, but {edition} is installed")
        return asked

    fields = [
        ("library", Annotated[str, AfterValidator(installed)], field(default=edition)),
        ("eot", Annotated[int, Field(ge=1)], field(default=10)),
        *parameters_of(make, known.own),
    ]
    first = (inspect.getdoc(make) or "").strip().partition("\n")[0].strip().strip("'")
    about = {
        "__doc__": f"{first or name} ({library.distribution}).\n\n{LibraryAttack.__doc__}",
        "norms": known.norms,
        "accesses": _QUERY if known.query else _GRADIENT,
        "unbounded": known.minimal,
        "not_parameters": {k: v for k, v in OURS.items() if k not in known.own},
        "of": library,
        "known": known,
        "make": make,
    }
    return dataclasses.make_dataclass(
        name, fields, bases=(LibraryAttack,), namespace=about, frozen=True, kw_only=True
    )


def parameters_of(make: Any, own: tuple[str, ...] = ()) -> Iterator[tuple[str, Any, Any]]:
    """List what of a signature can be set by plain values: name, type, field."""
    for one in inspect.signature(make).parameters.values():
        ours = one.name in OURS and one.name not in own
        if ours or one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            continue
        kinds = _plain(one.annotation) if one.annotation is not one.empty else ()
        kinds = kinds or _like(one.default)
        if not set(kinds) - {type(None)}:
            continue
        if one.default is one.empty:
            yield one.name, typing.Union[kinds], field()  # noqa: UP007 - of a tuple
            continue
        default = one.default
        if type(default) is int and float in kinds and int not in kinds:
            default = float(default)  # as it is read back from a cell
        yield one.name, typing.Union[kinds], field(default=default)  # noqa: UP007


def _plain(hint: Any) -> tuple[Any, ...]:
    """List the plain types of an annotation, which may be text such as 'int | None'."""
    if isinstance(hint, str):
        names = {kind.__name__: kind for kind in _PLAIN} | {"None": type(None)}
        return tuple(names[part] for part in map(str.strip, hint.split("|")) if part in names)
    if typing.get_origin(hint) is Literal or hint in _PLAIN:
        return (hint,)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for part in typing.get_args(hint) for kind in _plain(part))
    return ()


def _like(default: Any) -> tuple[Any, ...]:
    """List the types of values that may stand in place of a default."""
    if isinstance(default, bool | str):
        return (type(default),)
    return (int, float) if isinstance(default, int | float) else ()


def _odd_steps(params: Mapping[str, Any], radius: float) -> Iterator[str]:
    """Say where the steps, which libraries do not fit to the ball, are too short or long."""
    for pairs, whole in ((_STEPS, radius), (_STEPS_IN_RADII, 1.0)):
        for name, number in pairs:
            step, steps = params.get(name), params.get(number)
            if step is None or steps is None or math.isinf(radius):
                continue
            if step * steps < whole:
                yield f"{steps} steps of {name} {step:.3g} do not cross eps {radius:.3g}"
            elif step > 2 * whole:
                yield f"{name} {step:.3g} is more than twice eps {radius:.3g}"
