"""What devices raise and how long they work on, on stubs of a GPU."""

from __future__ import annotations

import re
import subprocess
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.core import batch_size
from bench.core.batch_size import in_blocks
from bench.core.defense import Defense
from bench.core.device import lacks_memory, lost, synchronize
from bench.core.precision import lowered
from bench.errors import UsageError
from bench.results import provenance
from bench.results.workspace import device_fault, open_device
from bench_defenses.none import Identity

from ..command import Bench

# What torch 2.11 raises where a GPU is full: by its allocator, the driver, cuDNN and cuBLAS.
FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
OTHER = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ValueError("out of memory"),
]


@pytest.fixture
def _own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "_found", {})


@pytest.mark.parametrize("error", FULL, ids=str)
def test_every_word_for_a_full_memory_is_known(error: Exception) -> None:
    assert lacks_memory(error)
    assert not lost(error)


@pytest.mark.parametrize("error", OTHER, ids=str)
def test_other_errors_are_no_lack_of_memory(error: Exception) -> None:
    assert not lacks_memory(error)
    assert lost(error) == isinstance(error, torch.AcceleratorError)


@pytest.mark.usefixtures("_own_number")
@pytest.mark.parametrize("error", FULL, ids=str)
def test_rows_halve_whatever_the_word(error: Exception) -> None:
    tried: list[int] = []

    def work(block: slice) -> int:
        tried.append(block.stop - block.start)
        if tried[-1] > 2:
            raise error
        return tried[-1]

    parts = in_blocks(work, 8, draws=16, device=torch.device("cpu"))
    assert sum(parts) == 8
    assert tried[:3] == [8, 4, 2]


class Failing(nn.Module):
    """A network that raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize("error", [*FULL, OTHER[0]], ids=str)
def test_a_low_search_hands_errors_of_the_device_on(error: Exception) -> None:
    defense = lowered(Defense(Identity(), Failing(error)), torch.bfloat16)
    with pytest.raises(type(error)) as raised:
        defense.classify(torch.zeros(1, 1))
    assert str(raised.value) == str(error)


def test_a_clock_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Any] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    synchronize(torch.device("cpu"))
    synchronize(torch.device("cuda", 1))
    assert waited == [torch.device("cuda", 1)]


def a_gpu(monkeypatch: pytest.MonkeyPatch, *, built: str = "sm_80 sm_90") -> None:
    """Two GPUs of sm_90, and a torch with kernels for some."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built.split())


def test_a_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(
        UsageError, match=r"is built without it\. Install one .* or use --device"
    ):
        open_device("cuda")


@pytest.mark.parametrize(
    ("built", "runs"),
    [
        ("sm_80 sm_90", True),
        ("sm_80 compute_80", True),
        ("sm_90a", True),
        ("sm_100 compute_120", False),  # a GPU that is too old
        ("sm_75 sm_86", False),  # one that is too new
    ],
)
def test_a_gpu_without_kernels_is_named_before_anything_runs(
    built: str, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_gpu(monkeypatch, built=built)
    monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace())
    monkeypatch.setattr(torch.backends, "cuda", SimpleNamespace(matmul=SimpleNamespace()))
    if runs:
        assert open_device("cuda") == torch.device("cuda")
        return
    with pytest.raises(
        UsageError, match=r"no kernels for device 'cuda' \(NVIDIA H200, sm_90\)\. Install"
    ):
        open_device("cuda")


def test_a_warning_of_cublas_about_its_first_use_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a_gpu(monkeypatch)
    monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace())
    monkeypatch.setattr(torch.backends, "cuda", SimpleNamespace(matmul=SimpleNamespace()))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        open_device("cuda")
        warnings.warn(
            "Attempting to run cuBLAS, but there was no current CUDA context! Attempting to "
            "set the primary context...",
            stacklevel=1,
        )
        warnings.warn("something else about CUDA", stacklevel=1)
    assert [str(one.message) for one in shown] == ["something else about CUDA"]


@pytest.mark.parametrize("name", ["cuda:9", "foo", "mps", "cuda:x"])
def test_a_device_that_is_not_there_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_gpu(monkeypatch)
    with pytest.raises(UsageError, match=f"'{name}'.*(Write auto|Use --device cpu)"):
        open_device(name)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        *[(error, r"memory is full\. Another process may use it") for error in FULL],
        (
            torch.AcceleratorError("CUDA error: no kernel image is available for execution"),
            r"no kernels for this GPU\. Install a torch",
        ),
        (OTHER[0], "illegal memory access was encountered. Start the same command again"),
    ],
    ids=str,
)
def test_what_a_gpu_raises_is_one_message(
    error: Exception, said: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> None:
        raise error

    monkeypatch.setattr("bench.cli._run", failing)
    found = bench("run")
    assert found.code == 1
    assert re.search(said, " ".join(found.err.split()))
    assert "fault of a plugin" not in found.err


@pytest.mark.parametrize("error", OTHER[1:], ids=str)
def test_other_errors_are_no_gpu_s(error: Exception) -> None:
    assert device_fault(error) is None


def test_a_numbered_gpu_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[Any] = []
    monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace())
    monkeypatch.setattr(torch.backends, "cuda", SimpleNamespace(matmul=SimpleNamespace()))
    a_gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert open_device("cuda:1") == torch.device("cuda", 1)
    assert open_device("cuda") == torch.device("cuda")
    assert current == [torch.device("cuda", 1)]
    with pytest.raises(UsageError, match="torch sees 2"):
        open_device("cuda:2")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU as far as provenance looks: its name, versions and most memory."""
    stub = SimpleNamespace(peak=5 * 2**20)

    def reset(device: torch.device) -> None:
        stub.peak = 0

    def smi(command: list[str], **options: Any) -> Any:
        assert command[0] in ("nvidia-smi", "git")
        return subprocess.CompletedProcess(command, 0, stdout="580.159.04\n580.159.04\n")

    provenance._device_versions.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: stub.peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    monkeypatch.setattr(provenance.subprocess, "run", smi)
    return stub


def test_each_block_has_the_memory_that_it_took_itself(gpu: SimpleNamespace) -> None:
    device = torch.device("cuda")
    assert provenance.provenance(device)["peak memory MiB"] == 5
    gpu.peak = max(gpu.peak, 3 * 2**20)  # a smaller block comes after a large one
    assert provenance.provenance(device)["peak memory MiB"] == 3


@pytest.mark.usefixtures("gpu")
def test_provenance_names_what_a_gpu_rounds_with() -> None:
    versions = provenance.provenance(torch.device("cuda"))["versions"]
    assert versions["cuda"] == "13.0"
    assert versions["cudnn"] == "91900"
    assert versions["driver"] == "580.159.04"
    assert versions["torch"]
    assert "cuda" not in provenance.provenance(torch.device("cpu"))["versions"]


def test_a_gpu_without_its_tool_has_no_driver_version(
    gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(command: list[str], **options: Any) -> Any:
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(provenance.subprocess, "run", missing)
    versions = provenance._device_versions(torch.device("cuda", 3))
    assert versions == {"cuda": "13.0", "cudnn": "91900"}
