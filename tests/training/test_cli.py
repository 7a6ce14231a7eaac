"""The command line as a user runs it: output, exit codes, and one line for a mistake."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from fusion_core import load_mapping
from tests.support.requires import sample
from training.console import print_json


def fusescope(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8", timeout=300)


def test_numbers_that_json_has_no_word_for_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1.5, float("nan"), {"b": float("inf"), "c": (True, None, 3)}], "東": "\ud800"})
    out = capsys.readouterr().out
    assert "NaN" not in out and json.loads(out) == {"a": [1.5, None, {"b": None, "c": [True, None, 3]}], "東": "?"}


def test_characters_that_the_terminal_has_no_byte_for_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    print_json({"piece": "Ġnaïve 🙂"})
    out.seek(0)
    assert json.loads(out.read()) == {"piece": "Ġnaïve 🙂"}


def test_the_version() -> None:
    assert fusescope("--version").stdout == f"fusescope {version('fusescope')}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_result_that_cannot_be_written_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "training", "tokenizers", "--format", "json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr.strip() == "fusescope: cannot write the result: No space left on device"


def test_help_names_every_command() -> None:
    done = fusescope("--help")
    assert done.returncode == 0
    for command in ("app", "tokenizers", "align", "map"):
        assert command in done.stdout
        assert fusescope(command, "--help").returncode == 0


def test_tokenizers_as_json() -> None:
    listed = json.loads(fusescope("tokenizers", "--format", "json").stdout)["samples"]
    assert {"name", "kind", "size", "installed"} <= set(listed[0])
    assert next(s for s in listed if s["name"] == "qwen")["size"] == 151646


def test_align_as_json_and_as_a_table() -> None:
    sample("qwen"), sample("deepseek")
    found = json.loads(fusescope("align", "qwen", "deepseek", "--text", "Hello 12345", "--format", "json").stdout)
    assert found["source"]["pieces"][:2] == ["Hello", "Ġ"] and found["kinds"] == ["1:1", "1:1", "n:1", "n:1"]
    table = fusescope("align", "qwen", "deepseek", text="naïve 🙂 [bold]").stdout
    assert ("[bold]" not in table and "naïve" not in table) or "Quality" in table


def test_map_writes_a_mapping_that_loads(tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    done = fusescope("map", "mistral", "minilm", "--kind", "hard", "-o", str(out), "--format", "json")
    figures = json.loads(done.stdout)
    assert done.returncode == 0 and figures["saved"] == str(out)
    assert load_mapping(out, sample("mistral"), sample("minilm")).kind == "hard"
    assert sum(row["total"] for row in figures["figures"]) == 32000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["align", "qwen", "qwne", "-t", "a"], "did you mean 'qwen'"),
        (["align", "qwen", "deepseek", "-t", "a", "--method", "magic"], "span, dtw, exact"),
        (["align", "qwen", "deepseek", "--file", "nowhere.txt"], "cannot read nowhere.txt"),
        (["align", "qwen", "deepseek"], "no text"),
        (["align", "qwen"], "Missing argument"),
        (["align", "qwen", "deepseek", "-t", "a", "--format", "xml"], "xml"),
        (["map", "qwen", "deepseek", "--kind", "statistical"], "learned from texts"),
        (["map", "mistral", "minilm", "--by", "colour"], "all, script, length, special"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_mistake_is_exit_code_2_and_one_line(arguments: list[str], says: str) -> None:
    done = fusescope(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    told = done.stderr.strip()  # some versions of rich leave an empty line where a bar was
    assert says in told and told.startswith("fusescope: ") and "\n" not in told


def test_a_file_that_is_no_utf8_says_where(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    done = fusescope("align", "qwen", "deepseek", "--file", str(tmp_path / "latin.txt"))
    assert done.returncode == 2 and "not UTF-8 (byte 2)" in done.stderr
    with (tmp_path / "latin.txt").open() as piped:
        command = [sys.executable, "-m", "training", "align", "qwen", "deepseek"]
        done = subprocess.run(command, stdin=piped, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "not UTF-8 (byte 2)" in done.stderr
