"""The checks of scripts/gpu_check.py, by what they look at.

Here, before any of them imports torch: where the sources are, and one thread.
"""

import os
import sys
from pathlib import Path

ROOT = Path(os.environ.get("GPU_CHECK_ROOT", Path(__file__).resolve().parents[2]))
for part in ("defenses", "attacks", "."):
    sys.path.insert(0, str(ROOT / part))
sys.path.append(str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")
