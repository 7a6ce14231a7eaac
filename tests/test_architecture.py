"""The layers hold: the core knows nothing of the app, and importing it does no work."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "streamlit", "plotly", "numba", "app", "training")
FORBIDDEN = {
    "fusion_core": {"app", "training", "tests", "streamlit", "plotly", "typer", "rich"},
    "training": {"app.views", "tests", "streamlit", "plotly"},
    "app": {"tests"},
}
# The one picture that the command line makes.
EXCEPTED = {("training/comparison.py", "plotly")}


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_nothing_above_it(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        for name in _imports(path):
            if (path.relative_to(ROOT).as_posix(), name.split(".")[0]) in EXCEPTED:
                continue
            assert not any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN[package]), f"{path}: {name}"


@pytest.mark.parametrize(
    ("modules", "numba"), [("fusion_core", False), ("fusion_core.alignment, fusion_core.mapping", True)]
)
def test_importing_the_core_loads_nothing_heavy(modules: str, numba: bool) -> None:
    code = f"import sys, {modules}; print(*({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(done.stdout.split()) <= ({"numba"} if numba else set())


def test_nothing_loads_pickles_or_runs_a_shell() -> None:
    for package in FORBIDDEN:
        for path in (ROOT / package).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            assert not _imports(path) & {"pickle", "marshal", "shelve"}, path
            assert "shell=True" not in source and "os.system" not in source, path
