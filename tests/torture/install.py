"""The wheel and the sdist, built and installed where there is no source tree, and used from there."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.torture.outcome import Row

ROOT = Path(__file__).parents[2]


def install(folder: Path) -> Row:
    """Build both from a copy of what is tracked, install each into an environment of its own, run the commands."""
    row = Row("install: wheel and sdist without the source tree")
    source = folder / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    built = _run([sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(source)], folder)
    row.count(built.returncode == 0, f"build: {built.stderr[-500:]}")
    shutil.rmtree(source)
    for package in sorted((folder / "dist").glob("fusescope-*")):
        home = folder / package.suffix.strip(".")
        python = home / "bin" / "python"
        _run([sys.executable, "-m", "venv", str(home)], folder)
        asked = [f"fusescope[samples] @ file://{package}", "--constraint", str(ROOT / "constraints.txt")]
        done = _run([str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *asked], folder)
        row.count(done.returncode == 0, f"{package.name}: pip: {done.stderr[-500:]}")
        if done.returncode:
            continue
        where = _run([str(python), "-c", "import app, fusion_core, training; print(app.__file__)"], folder)
        row.count(str(home) in where.stdout, f"{package.name}: {where.stdout}{where.stderr[-300:]}")
        _use(row, package.name, home / "bin" / "fusescope", folder)
    return row


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["FUSESCOPE_WORKSPACE"] = str(folder / "workspace")
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def _use(row: Row, name: str, command: Path, folder: Path) -> None:
    (folder / "text.txt").write_text("The naïve fox, 東京.", encoding="utf-8")
    aligned = _run([str(command), "align", "qwen", "mistral", "--file", "text.txt", "--format", "json"], folder)
    row.count(
        aligned.returncode == 0 and len(json.loads(aligned.stdout)["edges"]) > 5,
        f"{name}: align: {aligned.stderr[-500:]}",
    )
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    log = (folder / "app.log").open("wb")
    environment = {**os.environ, "CI": "1", "FUSESCOPE_WORKSPACE": str(folder / "workspace")}
    started = subprocess.Popen(
        [str(command), "app", "--no-browser", "--port", str(port)], cwd=folder, stdout=log, stderr=log, env=environment
    )
    try:
        row.count(_serves(port, started), f"{name}: the app did not answer: {(folder / 'app.log').read_text()[-500:]}")
        from tests.torture.load import draws_a_page

        row.count(draws_a_page(port), f"{name}: the Alignment page has no tokens")
    finally:
        started.terminate()
        started.wait(timeout=20)
        log.close()


def _serves(port: int, process: subprocess.Popen[bytes]) -> bool:
    for _ in range(240):
        try:
            return bool(urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=1).read())
        except OSError:
            if process.poll() is not None:
                return False
            time.sleep(0.25)
    return False
