"""How the app is started: on this machine only, with Streamlit's protections on, and without a shell."""

from __future__ import annotations

import os
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from app import launch
from fusion_core.errors import AppError
from tests.support.requires import sample
from tests.torture.load import serving


def _command(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[list[str], dict[str, str]]:
    seen: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda path, command, environment: seen.extend([command, environment]))
    monkeypatch.setattr(launch.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0))
    launch.launch(**{"port": 8501, "address": "localhost", "allow": [], "browser": False, **changes})
    return seen[0], seen[1]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the server is a child")
def test_it_binds_to_this_machine_and_turns_no_protection_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command, environment = _command(monkeypatch, allow=[tmp_path])
    assert "--server.address=localhost" in command
    assert not [part for part in command if "Xsrf" in part or "CORS" in part or part.startswith("--server.ssl")]
    assert str(tmp_path.resolve()) in environment[launch.VARIABLE]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the server is a child")
def test_a_first_start_asks_nothing_and_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a browser to open and no terminal, on a machine that Streamlit has never run on."""
    monkeypatch.delenv("CI", raising=False)
    with monkeypatch.context() as patch:
        command, environment = _command(patch, browser=True)
    assert "http://localhost:8501" in capfd.readouterr().out
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [part.replace("8501", str(port)) for part in command]
    environment |= {"HOME": str(tmp_path), "BROWSER": "true"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert "started" in server.stdout.readline()
        finally:
            server.kill()  # a SIGTERM that comes while it starts is lost


def test_a_port_that_is_taken_is_passed_over_or_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(AppError, match=f"port {port} is taken on localhost.*--port"):
            _command(monkeypatch, port=port)
        monkeypatch.setattr(launch, "FIRST_PORT", port)
        command, _ = _command(monkeypatch, port=None)
    chosen = next(part for part in command if part.startswith("--server.port="))
    assert port < int(chosen.split("=")[1]) < port + 100
    with pytest.raises(AppError, match=r"cannot listen on 203\.0\.113\.1"):  # an address of nobody's
        _command(monkeypatch, address="203.0.113.1")
    with pytest.raises(AppError, match=r"cannot listen on no\.such\.host\.invalid"):
        _command(monkeypatch, address="no.such.host.invalid")


def test_the_running_app_answers_here_and_refuses_other_origins(tmp_path: Path) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect
    from websockets.typing import Origin, Subprotocol

    sample("qwen")
    with serving(tmp_path) as server:
        listening = {c.laddr.ip for c in server.process.net_connections("tcp") if c.status == "LISTEN"}
        assert listening and listening <= {"127.0.0.1", "::1"}

        def knock(origin: str) -> None:
            address = f"ws://localhost:{server.port}/_stcore/stream"
            with connect(address, subprotocols=[Subprotocol("streamlit")], origin=Origin(origin)):
                pass

        knock(f"http://localhost:{server.port}")
        with pytest.raises(InvalidStatus):
            knock("http://evil.invalid")
        upload = urllib.request.Request(
            f"http://localhost:{server.port}/_stcore/upload_file/a/b",
            data=b"x",
            method="PUT",
            headers={"Origin": "http://evil.invalid"},
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(upload, timeout=10)
        assert refused.value.code in (400, 403)
    with socket.socket() as probe:  # it is gone
        assert probe.connect_ex(("localhost", server.port)) != 0
