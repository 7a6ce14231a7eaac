"""Coverage-guided fuzzing of the loaders with atheris, where it is installed (CPython 3.11 to 3.13 on Linux)."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.torture.outcome import Row

# What each target reads, by the file's name; seconds of a whole run.
TARGETS = (
    "tokenizer.json",
    "tokenizer.model",
    "tiny.tiktoken",
    "tekken.json",
    "model.gguf",
    "config.yaml",
    "mapping.parquet",
)
SECONDS = 25


def guided(share: float) -> list[Row]:
    """Each loader for `SECONDS` times `share`; whatever it raises that is no error of ours is lost."""
    if importlib.util.find_spec("atheris") is None:
        return [Row("guided fuzzing of the loaders", skipped="atheris is not installed: pip install atheris")]
    return [_one(name, max(2, round(SECONDS * share))) for name in TARGETS]


def _one(name: str, seconds: int) -> Row:
    row = Row(f"guided: {name}")
    with tempfile.TemporaryDirectory(prefix="guided-") as folder:
        command = [
            sys.executable, "-m", "tests.torture.guided", name, f"-max_total_time={seconds}", "-timeout=10",
            "-rss_limit_mb=2048", f"-artifact_prefix={folder}/", "-max_len=20000", "-verbosity=1", f"{folder}/corpus",
        ]  # fmt: skip
        seeds(Path(folder) / "corpus", name)
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace",
            env={**os.environ, "FUSESCOPE_WORKSPACE": f"{folder}/workspace", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    counts = [int(n) for n in re.findall(r"^#(\d+)\s", done.stderr, flags=re.MULTILINE)]
    coverage = re.findall(r"cov: (\d+)", done.stderr)
    row.tried = max(counts, default=0)
    row.survived = row.tried - (done.returncode != 0)
    if done.returncode:
        row.failures.append(" ".join(done.stderr.strip().splitlines()[-30:])[-1500:])
    row.note = f"{seconds} s, {coverage[-1] if coverage else '?'} edges"
    return row


def seeds(folder: Path, name: str) -> None:
    """Sound files to begin with."""
    import json

    from tests.support import formats, tiny
    from tests.support.gguf_file import write_gguf
    from tests.torture.bad_tokenizers import tekken_tree, tiktoken_bytes
    from training.config import EXAMPLE

    folder.mkdir(parents=True)
    made = Path(tempfile.mkdtemp())
    if name == "tokenizer.json":
        for kind in ("byte-bpe", "wordpiece", "unigram-nfkc", "metaspace-bpe"):
            (folder / kind).write_bytes(tiny.train(kind, made).read_bytes())
    elif name == "tokenizer.model":
        for kind in ("sentencepiece-bpe", "sentencepiece-unigram"):
            (folder / kind).write_bytes(tiny.train(kind, made).read_bytes())
    elif name == "tiny.tiktoken":
        (folder / "seed").write_bytes(tiktoken_bytes())
    elif name == "tekken.json":
        (folder / "seed").write_bytes(json.dumps(tekken_tree()).encode())
    elif name == "model.gguf":
        (folder / "seed").write_bytes(write_gguf(made / "a.gguf", "llama").read_bytes())
    elif name == "config.yaml":
        (folder / "seed").write_text(EXAMPLE, encoding="utf-8")
    else:
        formats.write(made)
        (folder / "seed").write_bytes((made / name).read_bytes())


def _fuzz(name: str) -> None:
    """The process that atheris runs in."""
    import atheris

    with atheris.instrument_imports(include=["fusion_core", "training", "gguf"]):
        import gguf  # noqa: F401

        import fusion_core.mapping
        import fusion_core.tokenizers
        import training.config
    from fusion_core.errors import FusionError

    path = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)) / name
    read = {
        "config.yaml": lambda: training.config.load(path, training=False),
        "mapping.parquet": lambda: fusion_core.mapping.load_mapping(path),
    }.get(name, lambda: fusion_core.tokenizers.load_tokenizer(path).encode("the naïve 東京 fox"))

    def one(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(FusionError):
            read()

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    _fuzz(sys.argv[1])
