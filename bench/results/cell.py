"""What is asked, and what exactly was measured: a request and a cell. Imports no torch.

Every identity of a cell is defined here: its key, the key of its proposals, and the hashes
that tell which cells belong together.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import Any, TypeVar

from bench.core.threat import (
    Access,
    Norm,
    ThreatModel,
    format_eps,
    parse_access,
    parse_eps,
    parse_norm,
)
from bench.errors import UsageError, unknown_name
from bench.plugins.names import is_kept

ZOO = "robustbench:"  # the prefix of classifiers from the RobustBench zoo
SOURCES = "sources"  # the field of a stored cell that says where its files were found
Known = TypeVar("Known")
_LEAST = {"n": 1, "pilot": 1, "draws": 1, "shard": 1, "seed": 0}
_MOST = {"n": 10**9, "pilot": 10**9, "draws": 10**9, "shard": 10**9, "seed": 2**63 - 1}


class Search(StrEnum):
    """The precision of the networks that an attack sees; those of the judge are float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def parse_search(text: str) -> Search:
    """Read the precision of a search; raises UsageError."""
    try:
        return Search(text.strip().lower())
    except ValueError:
        raise unknown_name("precision of a search", text, Search) from None


def check_count(name: str, value: int) -> int:
    """Return the number of images, draws, a shard or a seed; raises UsageError."""
    if value < _LEAST[name]:
        raise UsageError(f"{name} is {value}: it has to be {_LEAST[name]} or more.")
    if value > _MOST[name]:
        raise UsageError(f"{name} is too large: it has to be {_MOST[name]} or less.")
    return value


@dataclass(frozen=True)
class Request:
    """One evaluation as a user asks for it; parameters that are not set take their defaults.

    ``eps`` is None for no bound.
    """

    defense: str
    attack: str
    dataset: str = "digits"
    classifier: str = "small_cnn"
    norm: Norm = Norm.LINF
    eps: Fraction | None = Fraction(8, 255)
    access: Access | None = None  # None: the attack's own default
    n: int = 500
    seed: int = 0
    draws: int = 50
    shard: int = 100
    sequential: bool = False  # stop drawing for an image once its verdict is clear
    search: Search = Search.FLOAT32
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def parse(
        cls,
        *,
        norm: str = "Linf",
        eps: str = "8/255",
        access: str | None = None,
        search: str = "float32",
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        **rest: Any,
    ) -> Request:
        """Read what a user typed and check all that needs no plugin; raises UsageError."""
        faults: list[str] = []

        def read(how: Callable[..., Known], *words: Any) -> Known | None:
            try:
                return how(*words)
            except UsageError as error:
                faults.append(str(error))
            return None

        known_norm = read(parse_norm, norm) or Norm.LINF
        known_eps = read(parse_eps, eps, known_norm)
        known_access = read(parse_access, access) if access else None
        known_search = read(parse_search, search) or Search.FLOAT32
        for name in filter(rest.__contains__, _LEAST):
            read(check_count, name, rest[name])
        if faults:
            raise UsageError("\n".join(faults))
        return cls(
            norm=known_norm,
            eps=known_eps,
            access=known_access,
            search=known_search,
            settings=settings or {},
            **rest,
        )


@dataclass(frozen=True)
class Part:
    """A plugin in a cell: all its parameters, its revision, the digest of its checkpoint.

    ``source`` is the digest of the source that defines it, None for a plugin that ships.
    ``beside`` is that of tensors that neither plugin nor checkpoint holds, such as globals.
    """

    name: str
    params: Mapping[str, Any]
    revision: int
    checkpoint: str | None = None
    source: str | None = None
    beside: str | None = None

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Part:
        """Read what ``canonical`` wrote."""
        return cls(**content)

    def canonical(self) -> dict[str, Any]:
        """Write the part as plain JSON values."""
        return {
            "name": self.name,
            "params": dict(self.params),
            "revision": self.revision,
            "checkpoint": self.checkpoint,
            **({"source": self.source} if self.source else {}),
            **({"beside": self.beside} if self.beside else {}),
        }


_PARTS = ("classifier", "defense", "attack")
_KEY = re.compile(r"[0-9a-f]{16}")
# 'mnist:validation', 'mine.npz', 'folder:val@224', 'cifar10c:fog:3': no name leaves a folder.
_DATASET = re.compile(r"(folder:)?[\w+=@][\w.+=@ -]{0,199}(:[A-Za-z0-9_]{1,100}){0,3}")


def is_key(key: object) -> bool:
    """Say whether something is the key of a cell; keys become names of folders."""
    return isinstance(key, str) and _KEY.fullmatch(key) is not None


def _check_keys(keys: Iterable[Any]) -> None:
    for key in keys:
        if not is_key(key):
            raise UsageError(f"{key!a} is no key of a cell: it has 16 hexadecimal digits.")


def _check_names(names: Iterable[Any]) -> None:
    for name in names:
        if not is_kept(name):
            raise UsageError(f"{name!a} is no name: it has letters, digits, _ and - only.")


def check_dataset_name(name: Any) -> None:
    """Refuse what cannot be the name of a data set, which becomes a path; raises UsageError."""
    if not (isinstance(name, str) and _DATASET.fullmatch(name)):
        raise UsageError(
            f"{name!a} is no name for a data set: it has letters, digits, spaces and . _ - + = "
            "@, and does not begin with a dot. Rename the file or folder."
        )


@dataclass(frozen=True)
class Cell:
    """One defense, attack, access and threat on one fixed list of images: the first n.

    ``data`` is the digest of the test set. Images are attacked in aligned shards of ``shard``
    images, the unit of work, of resume and of bit-identity. ``sequential``: the
    judge stops drawing for an image once its verdict is clear. ``search``: the precision of
    the networks that the attack sees, never of the judge's. ``after``: keys of cheaper
    cells; images that one of them broke are not attacked again. ``images``: the proposal key
    of another cell whose stored images are judged here in place of an attack, rounded towards
    the clean image to ``bits`` per pixel where that is set. ``sources`` says where files were
    found, such as {"dataset": "/home/me/mine.npz"}; it is kept beside the key, not in it.
    """

    dataset: str
    data: str
    n: int
    shard: int
    classifier: Part
    defense: Part
    attack: Part
    threat: ThreatModel
    seed: int
    draws: int
    sequential: bool = False
    search: Search = Search.FLOAT32
    after: tuple[str, ...] = ()
    images: str | None = None
    bits: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Cell:
        """Read what ``canonical`` wrote; raises KeyError where a field is missing.

        Keys and names become paths: raises UsageError where one is no key or name.
        """
        norm = parse_norm(content["norm"])
        _check_keys([*content.get("after", ()), *filter(None, [content.get("images")])])
        check_dataset_name(content["dataset"])
        _check_names(content[part]["name"] for part in _PARTS)
        eps, access = parse_eps(content["eps"], norm), parse_access(content["access"])
        return cls(
            dataset=content["dataset"],
            data=content["data"],
            n=content["n"],
            shard=content["shard"],
            classifier=Part.read(content["classifier"]),
            defense=Part.read(content["defense"]),
            attack=Part.read(content["attack"]),
            seed=content["seed"],
            draws=content["draws"],
            threat=ThreatModel(norm, eps, access),
            sequential=content.get("sequential", False),
            search=parse_search(content.get("search", Search.FLOAT32)),
            after=tuple(content.get("after", ())),
            images=content.get("images"),
            bits=content.get("bits"),
            sources=content.get(SOURCES, {}),
        )

    def canonical(self) -> dict[str, Any]:
        """Write the cell as plain JSON values, the same for equal cells."""
        rare = {
            "sequential": self.sequential,
            "search": None if self.search is Search.FLOAT32 else self.search.value,
            "after": list(self.after),
            "images": self.images,
            "bits": self.bits,
        }
        return {
            "dataset": self.dataset,
            "data": self.data,
            "n": self.n,
            "shard": self.shard,
            "classifier": self.classifier.canonical(),
            "defense": self.defense.canonical(),
            "attack": self.attack.canonical(),
            "norm": self.threat.norm.value,
            "eps": format_eps(self.threat.eps),
            "access": self.threat.access.value,
            "seed": self.seed,
            "draws": self.draws,
            **{name: value for name, value in rare.items() if value},
        }

    def request(self) -> Request:
        """Write the request that this cell answers, with every parameter set."""
        return Request(
            defense=self.defense.name,
            attack=self.attack.name,
            dataset=self.dataset,
            classifier=self.classifier.name,
            norm=self.threat.norm,
            eps=self.threat.eps,
            access=self.threat.access,
            n=self.n,
            seed=self.seed,
            draws=self.draws,
            shard=self.shard,
            sequential=self.sequential,
            search=self.search,
            settings={
                "classifier": self.classifier.params,
                "attack": self.attack.params,
                "defense": self.defense.params,
            },
        )

    def key(self) -> str:
        """Hash the canonical content to 16 hexadecimal digits."""
        return digest_of(self.canonical())

    def proposal_key(self) -> str:
        """Hash what the attack's images depend on, and nothing else.

        Neither the judge's draws nor the number of images matter to a shard; and a transfer
        attack does not see the purifier, so all purifiers share its images.
        """
        if self.images:
            return self.images
        content = self.canonical()
        for name in ("draws", "n", "sequential", "bits"):
            content.pop(name, None)
        if self.threat.access is Access.TRANSFER:
            del content["defense"]
        return digest_of(content)

    def shards(self) -> list[tuple[int, int]]:
        """List the shards [start, stop) of the cell."""
        return [
            (start, min(start + self.shard, self.n)) for start in range(0, self.n, self.shard)
        ]


# The fields of a cell's content beside its defense. Two cells with the first group equal can be
# compared image by image; the second group is what was tried on those images.
SETTING = ("dataset", "data", "classifier", "norm", "eps", "n", "seed", "draws")
EFFORT = ("attack", "access", "shard", "sequential", "search", "after", "images", "bits")


def subject_of(content: Mapping[str, Any]) -> str:
    """Hash what an audit is about: a defense, its data and the ball, of a cell's content."""
    return _hashed(content, ("dataset", "data", "classifier", "defense", "norm", "eps"))


def defended_of(content: Mapping[str, Any]) -> str:
    """Hash what is defended how: equal for the attacks that a worst case joins."""
    return _hashed(content, (*SETTING, "defense"))


def asked_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Write what a request decides of a cell's content, before anything is trained.

    It has no digest of data or checkpoints, and no other cell. Its hash names the folder of a
    cell that was skipped, or that failed before its key was known.
    """
    fields = {*SETTING, *EFFORT} - {"data", "after", "images", "bits"}
    asked = {name: content[name] for name in fields if name in content}
    parts = {
        name: {k: v for k, v in content[name].items() if k != "beside"} | {"checkpoint": None}
        for name in ("classifier", "defense", "attack")
    }
    return {**asked, **parts, "pending": True}


def ladder_of(content: Mapping[str, Any]) -> str:
    """Hash what the attacks of a ladder share: a defense, its images, a ball and a seed."""
    shared = ("dataset", "n", "shard", "classifier", "defense", "norm", "eps", "seed")
    return _hashed(asked_of(content), shared)


def _hashed(content: Mapping[str, Any], fields: Iterable[str]) -> str:
    return digest_of({name: content.get(name) for name in fields})


def digest_of(content: Mapping[str, Any]) -> str:
    """Hash plain JSON values; raises TypeError for anything else."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
