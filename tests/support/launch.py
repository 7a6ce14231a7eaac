"""Starting what a user would start, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def launched(module: str, *arguments: object, **environment: str) -> None:
    """Run `python -m module arguments`, which must end well."""
    found = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert found.returncode == 0, found.stderr[-20_000:]
