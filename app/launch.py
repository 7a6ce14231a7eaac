"""Start the Streamlit server: an argument list, this machine only, the folders that it may read in its environment."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from app.paths import VARIABLE
from fusion_core.errors import AppError
from fusion_core.workspace import clear_parts

FIRST_PORT = 8501
_PORTS_TRIED = 100


def _is_free(address: str, port: int) -> bool:
    """Whether a server could listen there, on each interface that `address` stands for.

    Raises:
        AppError: nobody can listen there, such as at an address of another machine.
    """
    refused: OSError | None = None
    bound = False
    try:
        places = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        places, refused = [], error
    for family, kind, protocol, _, place in places:
        try:
            with socket.socket(family, kind, protocol) as probe:
                if os.name == "posix":  # elsewhere this would let two servers share a port
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(place)
                bound = True
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            refused = error  # "localhost" may have an IPv6 address on a machine without IPv6: another one will do
    if refused is not None and not bound:
        raise AppError(f"the app cannot listen on {address}, port {port}: {refused.strerror}") from refused
    return True


def _choose_port(address: str, port: int | None) -> int:
    """`port` if it is free, or the first free one where none is asked for.

    Raises:
        AppError: it is taken, or all are.
    """
    tried = [port] if port else range(FIRST_PORT, FIRST_PORT + _PORTS_TRIED)
    for one in tried:
        if _is_free(address, one):
            return one
    taken = f"port {port} is taken" if port else f"ports {tried[0]} to {tried[-1]} are all taken"
    raise AppError(f"{taken} on {address}, perhaps by another fusescope; give another one with --port")


def launch(*, port: int | None, address: str, allow: Sequence[Path], browser: bool) -> int:
    """Run the app until it is stopped; returns the server's exit code. No port: the first free one from 8501 on.

    Raises:
        AppError: nothing can listen there.
    """
    clear_parts()
    port = _choose_port(address, port)
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
