"""What a library of attacks is, and what its files here say of each attack."""

from __future__ import annotations

import inspect
import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor

from bench.core.threat import Norm
from bench.errors import PluginError, UsageError, unknown_name
from bench.plugins.libraries.model import ViewModel

_LONGEST = 800  # characters of an error with the names of all attacks
BOTH, LINF, L2 = (Norm.LINF, Norm.L2), (Norm.LINF,), (Norm.L2,)

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
                return import_module(self.module)
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
            error = unknown_name(f"attack of {self.edition()}", name, known)
            raise UsageError(textwrap.shorten(f"{error}", _LONGEST, placeholder=" ..."))
        return getattr(module, name)
