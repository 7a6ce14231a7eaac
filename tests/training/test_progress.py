"""How far a run is, as its folder tells it, and what a run would take, against what it takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from fusion_core import ModelError
from tests.support import tiny
from tests.support.tiny_run import quiet, tiny_config
from training.engines import Engine, InProcess, Job
from training.progress import PROGRESS, Journal, Standing, read_standing
from training.splits import split_corpus

pytest.importorskip("torch")
from fusion_core.models import load_model, model_size
from training.config import training_fields
from training.data import plan, prepare
from training.estimate import estimate
from training.train import train


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, workspace_folder: Path) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("models")
    return str(tiny.save_model(root / "a", "byte-bpe", 1)), str(tiny.save_model(root / "b", "metaspace-bpe", 2))


class _Ahead:
    """Draws all batches before it works on the first one, as a pool of processes may."""

    def map(self, job: Job, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from map(job, list(batches))


@pytest.mark.parametrize("engine", [InProcess(), _Ahead()])
@pytest.mark.parametrize("shard", [131_072, 100])
def test_every_stage_is_heard_to_its_end(
    tmp_path: Path, models: tuple[str, str], engine: Engine, shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.stages.teach.batches.__defaults__", (shard,))
    config = tiny_config(tmp_path, models)
    documents = split_corpus(config).train
    titles = [step.title for step in plan(config, documents)]
    for again in (False, True):
        heard: list[Standing] = []
        prepare(config, documents, quiet, engine, heard.append, more=1)
        assert list(dict.fromkeys(one.stage for one in heard)) == titles
        for number, title in enumerate(titles, 1):
            own = [one for one in heard if one.stage == title]
            done = [one.done for one in own]
            assert done == sorted(done) and done[0] == 0 and done[-1] == len(documents) == own[0].total, title
            assert {(one.number, one.of) for one in own} == {(number, len(titles) + 1)}
        if shard == 100 and isinstance(engine, InProcess) and not again:
            assert len({one.done for one in heard if one.stage == titles[0]}) > 5


def test_a_run_leaves_its_standing(tmp_path: Path, models: tuple[str, str]) -> None:
    config = tiny_config(tmp_path, models)
    splits = split_corpus(config)
    before = estimate(config, splits)
    assert [done for _, done in before.stages] == [False] * 5
    result = train(config, say=quiet)
    assert read_standing(config.output) == Standing("train", 5, 5, result["steps"], result["steps"], "steps")
    # What was foretold is what came: the steps to the last one, the rest nearly.
    after = estimate(config, splits)
    assert after.steps == before.steps == result["steps"]
    assert [done for _, done in after.stages] == [True] * 4 + [False]
    made = sum(path.stat().st_size for path in (config.output / "data").rglob("*.parquet"))
    assert made / 2 < before.distributions < made * 2
    saved = sum(path.stat().st_size for path in config.output.rglob("*.safetensors")) + sum(
        path.stat().st_size for path in config.output.rglob("optimizer.pt")
    )
    assert before.checkpoints == pytest.approx(saved, rel=0.25)


def test_the_size_of_a_model_is_that_of_its_weights(models: tuple[str, str]) -> None:
    for name in models:
        network = load_model(name, device="cpu").network
        size = model_size(name)
        assert size.parameters == network.num_parameters()
        assert size.width == network.get_output_embeddings().weight.shape[0]
        assert (size.layers, size.hidden) == (network.config.num_hidden_layers, network.config.hidden_size)
    with pytest.raises(ModelError, match="nobody"):
        model_size("./nobody")


def test_memory_grows_with_what_needs_it(tmp_path: Path, models: tuple[str, str]) -> None:
    config = tiny_config(tmp_path, models)
    splits = split_corpus(config)

    def needs(**training: object) -> int:
        changed = config.model_copy(update={"training": {**config.training, **training}})
        return estimate(changed, splits).memory["train"]

    assert needs(per_device_train_batch_size=64) > needs() > needs(gradient_checkpointing=True)
    if "activation_checkpointing" in training_fields():  # from transformers 5.24 on
        assert needs(activation_checkpointing=True) == needs(gradient_checkpointing=True)
    online = estimate(config.model_copy(update={"online": True}), splits)
    assert online.memory["train"] > needs() and online.distributions == 0 and len(online.stages) == 1
    found = estimate(config, splits)
    assert not found.shortage
    assert "has 1.0 kB of memory" in replace(found, has=1000).shortage and not replace(found, has=None).shortage


def test_a_journal_survives_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    Journal(tmp_path / "file")(Standing("train", 1, 1, 0.0, 1.0))
    assert read_standing(tmp_path / "file") is None
    (tmp_path / PROGRESS).write_text("{")
    assert read_standing(tmp_path) is None


def test_a_config_of_endless_layers_is_refused(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "huge", "byte-bpe", 1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**7}))
    for load in (model_size, load_model):
        with pytest.raises(ModelError, match="10,000,000 layers"):
            load(folder)
