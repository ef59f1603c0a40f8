"""A second device in Python, for machines without a GPU: it refuses what CUDA refuses.

Tensors of device 'simgpu' hold CPU tensors, so that they compute the CPU's numbers. They may
not be mixed with the CPU's, and launches and waits of the host are counted (``ledger.py``). The
device is torch's PrivateUse1 with a guard in Python, so that autograd runs backward passes in
a thread of its own, as it does for CUDA. It changes torch for the whole process: only
``test_simulated.py`` starts one. Needs torch's registration of backends in Python, which an
older torch lacks.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _foreach_utils, backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from tests.device.ledger import INDEXING, LEDGER, draws, launches, waits

NAME = "simgpu"


class _Backend(backend_registration._DummyBackendModule):
    """What torch asks a device's module beyond its own answers: autocast, and generators."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.zeros(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        pass

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False


backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
DEVICE = torch.device(NAME, 0)
CPU = torch.device("cpu")

_COPIES = ("_to_copy", "copy_")


class MixedError(RuntimeError):
    """An operation on tensors of two devices."""


class Simulated(Tensor):
    """A tensor of the simulated device; ``held`` has its numbers, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Simulated:
        assert not isinstance(held, Simulated)
        made: Simulated = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        LEDGER.wait("tolist")
        return self.held.tolist()

    def numpy(self, *args: Any, **named: Any) -> Any:
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy.")

    __array__ = numpy

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else object.__format__(self, spec)

    def __repr__(self, **named: Any) -> str:
        return f"Simulated({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            with torch.no_grad():
                copy: Any = Simulated(self.held.clone(memory_format=torch.preserve_format))
            if isinstance(self, nn.Parameter):
                copy = nn.Parameter(copy, self.requires_grad)
            memo[id(self)] = copy.requires_grad_(self.requires_grad)
        return memo[id(self)]


class Operations(TorchDispatchMode):
    """Catches operations that name the device and have no tensor on it, such as torch.zeros."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the detour takes longer than an addition

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _ours(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


@functools.cache
def _operation(func: Any) -> str:
    """Name an operation; to ask for its schema each time takes longer than a small one."""
    name: str = func._schema.name.split("::")[1]
    return name


def _held(value: Any) -> Any:
    """Put what tensors of the device hold in their place, also in a list of them."""
    if isinstance(value, Simulated):
        return value.held
    return [_held(one) for one in value] if isinstance(value, list | tuple) else value


def _run(func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Do an operation on the numbers that are held, and count it."""
    given = [
        one
        for value in (*args, *named.values())
        for one in (value if isinstance(value, list | tuple) else (value,))
        if isinstance(one, Tensor)
    ]
    tensors = [one for one in given if isinstance(one, Simulated)]
    device = named.get("device")
    here = _ours(device)
    if not tensors and not here:
        return func(*args, **named)
    operation = _operation(func)
    if operation in _COPIES:
        return _copied(func, operation, args, named)
    if len(tensors) < len(given):
        _refuse_mixed(func, operation, args, given)
    if why := waits(operation, func._overloadname, args, named):
        LEDGER.wait(why)
    if draws(operation):
        LEDGER.drawn[operation] += 1
    LEDGER.launch(operation, launches(operation, args, named))
    if operation == "div" and not isinstance(args[1], Simulated):
        LEDGER.launch("division by a number", 0)  # CUDA multiplies by its reciprocal
    raw_named = {key: _held(value) for key, value in named.items()}
    if here:
        raw_named["device"] = CPU
    raw = func(*map(_held, args), **raw_named)
    if operation == "_local_scalar_dense":
        return raw
    # What an operation writes into is handed back as it came in.
    written = {id(tensor.held): tensor for tensor in tensors}
    leaves = device is not None and not here

    def wrapped(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(wrapped, value))
        if not isinstance(value, Tensor) or isinstance(value, Simulated):
            return value
        found = written.get(id(value))
        if found is not None and found.shape == value.shape:  # not so after squeeze_
            return found
        return value if leaves else Simulated(value)

    return wrapped(raw)


def _copied(func: Any, operation: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Copy within a device, or between two, for which the host waits."""
    if operation == "copy_":
        target, source = args[:2]
        after = before = isinstance(target, Simulated), isinstance(source, Simulated)
        after, before = before
        _held(target).copy_(_held(source))
        found = target
    else:
        source, device = args[0], named.get("device")
        before = isinstance(source, Simulated)
        after = before if device is None else _ours(device)
        moved = {**named, "device": CPU} if device is not None else named
        held = func(_held(source), **moved)
        found = Simulated(held) if after else held
    if before == after:
        LEDGER.launch(operation)
    else:
        LEDGER.wait("copy to the device" if after else "copy to the host")
    return found


def _refuse_mixed(
    func: Any, operation: str, args: tuple[Any, ...], given: list[Tensor]
) -> None:
    """Raise MixedError where CUDA refuses tensors of the CPU: those that are no numbers."""
    if operation.startswith(("_foreach", "_fused")):  # the steps of optimisers
        return
    for value in given:
        if isinstance(value, Simulated) or value.dim() == 0:
            continue
        if operation in INDEXING and any(value is index for index in args[1] or ()):
            LEDGER.wait("copy to the device (an index)")
            continue
        raise MixedError(
            f"Expected all tensors to be on the same device, but {func} found {DEVICE} and a "
            f"tensor {tuple(value.shape)} on the CPU"
        )


def _patched() -> None:
    """Let torch.tensor and torch.as_tensor make tensors of the device."""
    as_tensor, tensor = torch.as_tensor, torch.tensor

    def as_tensor_here(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
        if isinstance(data, Simulated) or not _ours(device):
            if isinstance(data, Simulated) and _ours(device or DEVICE):
                return data if dtype in (None, data.dtype) else data.to(dtype)
            return as_tensor(data, dtype=dtype, device=device)
        return as_tensor(data, dtype=dtype).to(device)

    def tensor_here(data: Any, *, device: Any = None, **named: Any) -> Tensor:
        made = tensor(data, device=None if _ours(device) else device, **named)
        return made.to(device) if _ours(device) else made

    torch.as_tensor, torch.tensor = as_tensor_here, tensor_here


def _not_reached(*args: Any, **named: Any) -> Any:
    raise NotImplementedError("an operation of the device without a simulated tensor")


_patched()
# So that optimisers and clipping take all weights in one launch, as on CUDA.
_foreach_utils._foreach_supported_types.append(Simulated)
# Not by `parameter.data = other`, which would leave `held` as it was.
torch.__future__.set_overwrite_module_params_on_conversion(True)
# Operations that CUDA does in one kernel, and that torch takes apart for other devices.
_KERNELS = torch.library.Library("aten", "IMPL")
for _name in ("silu_backward", "_foreach_norm.Scalar", "_foreach_mul_.Tensor"):
    _KERNELS.impl(_name, _not_reached, "PrivateUse1")
Operations().__enter__()
