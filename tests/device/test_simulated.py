"""The product on a simulated GPU: the files of ``inside`` in a process of their own.

The simulated device changes torch for its whole process (``simulated.py``), and pytest collects
the files of ``inside`` only where they are named, as here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

INSIDE = Path(__file__).with_name("inside")
ROOT = Path(__file__).parents[2]


@pytest.mark.first
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch registers no backend in Python",
)
def test_on_a_simulated_device() -> None:
    files = sorted(map(str, INSIDE.glob("[a-z]*.py")))
    words = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*words, *files], cwd=ROOT, capture_output=True, text=True, check=False,
        env={key: value for key, value in os.environ.items() if "PYTEST" not in key},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert all(Path(file).stem in done.stdout for file in files), "each has tests"
    assert " passed" in done.stdout
