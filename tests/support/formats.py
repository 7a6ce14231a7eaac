"""One small file of every format that this project writes, its values the same each time.

`python -m tests.support.formats` writes them to tests/golden/formats. Do that when a format's version has been raised:
files of the version before must then be refused, or read as they were.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusion_core import VocabularyMapping, save_mapping
from fusion_core.distributions import TopK, save_distributions
from fusion_core.mapping import Provenance
from fusion_core.sealed import write_json, write_table
from fusion_core.tokenizers import Vocabulary, _cache, _gguf
from training import progress, runs, shards
from training.config import dump, parse
from training.corpus import Document
from training.engines import InProcess
from training.stages import teach
from training.sweep import search

GOLDEN = Path(__file__).parents[1] / "golden" / "formats"
STANDING = progress.Standing("teach a", 1, 5, 2.5, 7.0)
RESULT = {"target": "a", "steps": 3, "validation_after": 1.5, "finished": True}


def mapping() -> VocabularyMapping:
    provenance = Provenance("soft", "bytes", "a", "b", "fa", "fb", "", "0.1.0")
    return VocabularyMapping(
        provenance,
        np.array([0, 2, 2, 3], np.int64),
        np.array([4, 1, 0], np.int32),
        np.array([0.75, 0.25, 1.0], np.float32),
        np.array([0, -1, 2], np.int32),
        np.array([1, 0, 3], np.int32),
        5,
    )


def distributions() -> TopK:
    logprobs = np.log(np.array([[0.5, 0.25], [0.75, 0.125]], np.float32))
    return TopK(np.array([[3, 0], [1, 4]], np.int32), logprobs, 6)


def vocabulary() -> Vocabulary:
    return Vocabulary.build(["<s>", "a", "\udce9", ""], [b"", b"a", b"\xe9", b""], [1, 0, 2, 3], {"bos": 0})


def config_value() -> dict[str, object]:
    return {"target": "a", "corpus": {"name": "stdlib-code", "part": "1/2"}, "output": "runs/x"}


def write(folder: Path) -> None:
    """All of them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_mapping(mapping(), folder / "mapping.parquet")
    save_distributions(distributions(), folder / "distributions.parquet", {"model": "m", "tokenizer": "t"})
    one = vocabulary()
    head = {"fingerprint": "f", "roles": dict(one.roles)}
    write_table(_cache._to_table(one), folder / "vocabulary.parquet", _cache.FORMAT, _cache.VERSION, head)
    fields = {"model": "gpt2", "tokens": ["a", "é"], "bos_token_id": 0}
    write_json(folder / "gguf.json", _gguf.FORMAT, _gguf.VERSION, {"fields": fields})
    batches = teach.batches([Document("d", "x", "naïve")])
    shards.run_stage(folder / "shards", "copy", {"how": "as it is"}, batches, lambda batch: batch, engine=InProcess())
    (folder / "shards" / ".lock").unlink()
    write_json(folder / "run.json", runs.FORMAT, runs.VERSION, RESULT)
    write_json(folder / "process.json", runs.FORMAT, runs.VERSION, {"pid": 999999999, "born": "1"})
    progress.Journal(folder)(STANDING)
    write_json(folder / "trials.json", search.FORMAT, search.VERSION, {"trials": {"clm/only,seed=0": RESULT}})
    (folder / "config.yaml").write_text(dump(parse(config_value())), encoding="utf-8")


if __name__ == "__main__":
    write(GOLDEN)
