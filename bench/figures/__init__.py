"""Figures of a paper: each is a PNG, the CSV that it is drawn from, and a JSON about both."""

import os

# A notebook names its own backend in MPLBACKEND, and where that is not installed matplotlib
# cannot even be imported. Figures are files, which need none.
_BACKEND = os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib as matplotlib
finally:
    if _BACKEND is not None:
        os.environ["MPLBACKEND"] = _BACKEND
