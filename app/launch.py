"""Start the Streamlit server: an argument list, this machine only, the folders that it may read in its environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from app.paths import VARIABLE
from fusion_core.workspace import clear_parts


def launch(*, port: int, address: str, allow: Sequence[Path], browser: bool) -> int:
    """Run the app until it is stopped; returns the server's exit code."""
    clear_parts()
    script = Path(__file__).with_name("main.py")
    roots = [Path.cwd(), *allow]
    environment = {**os.environ, VARIABLE: os.pathsep.join(str(root.expanduser().resolve()) for root in roots)}
    options = {
        "server.address": address,
        "server.port": str(port),
        "server.headless": "false" if browser and os.environ.get("CI") is None else "true",
        # What Streamlit asks of its own developers, on a machine's first start and on the page, is not for our users.
        "server.showEmailPrompt": "false",
        "logger.hideWelcomeMessage": "true",
        "server.maxUploadSize": "20",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        # A full collection after every run walks all vocabularies: most of what 20 sessions wait for. Python's own
        # collections come in time.
        "runner.postScriptGC": "false",
    }
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    command += [f"--{name}={value}" for name, value in options.items()]
    print(f"fusescope is on http://{address}:{port} (Ctrl-C stops it)", flush=True)
    if os.name == "posix":
        # Becomes the server, so that whoever stops this process stops the server.
        os.execve(sys.executable, command, environment)  # noqa: S606  # a list, never a shell
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603  # a list, never a shell
