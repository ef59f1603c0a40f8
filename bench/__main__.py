"""``python -m bench`` is the command ``bench``."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command; Ctrl-C ends it quietly also while it is imported."""
    try:
        from bench.cli import script

        script()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
