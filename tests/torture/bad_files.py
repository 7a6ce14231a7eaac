"""Spoiled files of our own formats, configs, corpora and model folders."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.support import formats, tiny
from tests.test_formats import READERS, SEALED
from tests.torture import mutation
from tests.torture.mutation import Case, Random
from tests.torture.naming import naming
from training import config, runs
from training.corpus import documents
from training.splits import split_corpus
from training.sweep import read_sweep


def sealed_files(folder: Path) -> Case:
    """Whatever happens to a file that carries a checksum: refused, or read as it was."""
    home = folder / "formats"
    formats.write(home)
    names = [name for name in SEALED if name != "shards/manifest.json"]
    data = {name: (home / name).read_bytes() for name in names}
    expected = {name: repr(READERS[name](home / name)) for name in names}

    def case(rng: Random) -> None:
        name = rng.choice(names)
        path = home / name
        path.write_bytes(mutation.spoil(rng, data[name]))
        with naming(path) if name != "run.json" else naming(home):
            assert repr(READERS[name](path)) == expected[name]

    return case


def shards(folder: Path) -> Case:
    """A folder of shards whose manifest, or one of whose files, is spoiled, missing, or another's."""
    home, sound = folder / "shards", folder / "formats" / "shards"
    formats.write(folder / "formats")
    expected = repr(READERS["shards/manifest.json"](sound / "manifest.json"))

    def case(rng: Random) -> None:
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(sound, home)
        victim = rng.choice(sorted(home.iterdir()))
        if rng.random() < 0.1:
            victim.unlink()
        else:
            victim.write_bytes(mutation.spoil(rng, victim.read_bytes()))
        with naming(home):
            assert (
                repr(READERS["shards/manifest.json"](home / "manifest.json")).replace(str(home), str(sound)) == expected
            )

    return case


def run_folders(folder: Path) -> Case:
    """The list of runs never fails for one of them, and shows nothing that its files do not say."""
    home = runs.runs_folder() / "a"
    rows = "".join(json.dumps({"step": n, "loss": 1.0 / (n + 1), "eval_bits_per_byte": 2.0}) + "\n" for n in range(5))
    files = {
        "launch.yaml": config.dump(config.parse(formats.config_value())).encode(),
        "metrics.jsonl": rows.encode(),
        "log.txt": b"a bar\r100%\n\x1b[31mred\n" * 3,
    }
    formats.write(folder / "formats")
    for name in ("run.json", "process.json", "progress.json"):
        files[name] = (folder / "formats" / name).read_bytes()

    def case(rng: Random) -> None:
        home.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (home / name).write_bytes(mutation.spoil(rng, data) if rng.random() < 0.4 else data)
        for _ in range(rng.randrange(3)):
            state = (
                home
                / "checkpoints"
                / rng.choice(("checkpoint-3", "checkpoint-x", "checkpoint-"))
                / "trainer_state.json"
            )
            state.parent.mkdir(parents=True, exist_ok=True)
            state.write_bytes(rng.choice((b"{}", b"{", b"", b"[]", b"\xff")))
        (run,) = runs.list_runs()
        assert run.state in ("finished", "stopped", "failed", "unreadable")
        assert run.result == (formats.RESULT if run.state == "finished" else {})
        assert all(isinstance(value, int | float) for row in run.metrics for value in row.values())
        assert run.standing in (formats.STANDING, None)
        run.log().encode()
        assert isinstance(run.resumable, bool)
        shutil.rmtree(home)

    return case


def configs(folder: Path) -> Case:
    path = folder / "c.yaml"
    tree = yaml.safe_load(config.EXAMPLE)
    changes = (
        "loss.lam=2",
        "corpus.part=1/0",
        "a.b.c=1",
        "=",
        "sources.0=x",
        "sources.99.model=x",
        "training=[1]",
        "\0=1",
        "target=",
    )
    nasty = (
        b"!!python/object/apply:os.system ['true']",
        b"a: &a [*a]",
        b"- " * 3000,
        b"{" * 3000,
        b"\xff",
        b"a: !!binary x",
    )

    def case(rng: Random) -> None:
        kind = rng.random()
        if kind < 0.5:
            value = mutation.spoil_json(rng, tree)
            try:
                data = yaml.safe_dump(value).encode("utf-8", "surrogatepass")
            except (yaml.YAMLError, UnicodeError, RecursionError):
                data = json.dumps(value).encode()
        elif kind < 0.9:
            data = mutation.spoil(rng, config.EXAMPLE.encode())
        else:
            data = rng.choice(nasty)
        path.write_bytes(data)
        given = [rng.choice(changes)] if rng.random() < 0.2 else []
        if rng.random() < 0.1:
            read_sweep(path, given)
            return
        with naming(path) if not given else naming(Path("")):
            found = config.load(path, given, training=False)
        assert config.parse(yaml.safe_load(config.dump(found)), training=False) == found

    return case


def corpora(folder: Path) -> Case:
    table = pa.table({"text": ["the fox", "naïve", "東京"], "name": ["a", "b", "c"]})
    pq.write_table(table, folder / "sound.parquet")
    parquet = (folder / "sound.parquet").read_bytes()
    lines = "".join(json.dumps({"text": text, "name": text[:2]}) + "\n" for text in ("the fox", "x", "\ud83d", "東京"))

    def case(rng: Random) -> None:
        suffix = rng.choice((".jsonl", ".parquet", ".txt"))
        path = folder / f"corpus{suffix}"
        data = {".jsonl": lines.encode(), ".parquet": parquet, ".txt": "a\n東京\n".encode()}[suffix]
        path.write_bytes(mutation.spoil(rng, data))
        with naming(path):
            found = list(documents(None, [path]))
        assert all(isinstance(one.text, str) and one.text and isinstance(one.name, str) for one in found)
        section = {"files": [str(path)], "split": rng.choice(("hash", "order")), "paragraphs": rng.random() < 0.5}
        if rng.random() < 0.3:
            section["part"] = "1/2"
        parts = split_corpus(config.parse({"target": "a", "corpus": section, "output": "x"}, training=False))
        for one in islice(parts.train, 3):
            assert one.text

    return case


def model_folders(folder: Path) -> Case:
    """A model's folder with its configuration, weights or tokenizer spoiled."""
    import torch

    from fusion_core.models import load_model

    torch.set_num_threads(1)
    sound = tiny.save_model(folder / "sound", "byte-bpe", 0)
    home = folder / "model-folder"
    tree = json.loads((sound / "config.json").read_text())

    def case(rng: Random) -> None:
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(sound, home)
        how = rng.randrange(5)
        weights = home / "model.safetensors"
        if how == 0:
            (home / "config.json").write_bytes(mutation.as_json(rng, mutation.spoil_json(rng, tree)))
        elif how == 1:
            head = weights.read_bytes()
            weights.write_bytes(mutation.spoil(rng, head[:3000]) + head[3000:])
        elif how == 2:
            weights.write_bytes(weights.read_bytes()[: rng.randrange(weights.stat().st_size)])
        elif how == 3:
            weights.rename(home / "pytorch_model.bin")
        else:
            (home / "tokenizer.json").write_bytes(mutation.spoil(rng, (home / "tokenizer.json").read_bytes()))
        with naming(home):
            model = load_model(str(home), device="cpu")
        found = model.predict("the quick brown fox", top_k=4)
        assert len(found.top) == len(found.encoding) + 1

    return case


def run_names(folder: Path) -> Case:
    """Only names that stay inside the folder of runs."""
    alphabet = ("a", "B", "0", ".", "..", "/", "\\", "-", "_", " ", "\0", "\n", "é", "%2e", "~", "$(x)", ";", "a" * 64)

    def case(rng: Random) -> None:
        name = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 6)))
        path = runs.run_folder(name)
        assert path.resolve().parent == runs.runs_folder().resolve() and path.name == name and len(name) <= 64

    return case
