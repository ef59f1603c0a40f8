"""Plugins import `bench.api`: what only scripts need is imported when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench import api


def test_the_api_knows_what_it_has_not_imported() -> None:
    code = (
        "import sys; from bench import api; assert {'evaluate', 'Ball'} <= set(dir(api)); "
        "assert not {'pandas', 'matplotlib', 'bench.scripting'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in api.__all__:
        assert getattr(api, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        _ = api.evalute
