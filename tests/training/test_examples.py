"""From documents to the tensors of a batch: what is taught, carried over and packed."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fusion_core import DistributionError, ModelError, load_tokenizer, map_vocabulary
from fusion_core.compat.fusellm import transform_step_logits
from fusion_core.transfer import Transfer, build_index, transfer
from tests.support import tiny
from tests.support.predictions import random_predictions
from tests.support.tiny_run import LINES, quiet, tiny_config
from training.corpus import Document
from training.data import prepare, sharing
from training.shards import read_shards
from training.splits import split_corpus
from training.stages import carry, teach
from training.stages.examples import pack

torch = pytest.importorskip("torch")
from fusion_core.models import load_model  # noqa: E402
from training.dataset import Collator, Examples, example  # noqa: E402


def test_examples_hold_what_the_transfer_says(tmp_path: Path, models: tuple[str, str]) -> None:
    config = tiny_config(tmp_path, models)
    documents = list(split_corpus(config).train)
    assert [d.text for d in documents] == [d.text for d in split_corpus(config).train]
    folder = prepare(config, split_corpus(config).train, quiet)
    source, target = load_model(models[0], device="cpu"), load_model(models[1], device="cpu")
    index = build_index(source.tokenizer, target.tokenizer)
    rows = {}
    for batch in read_shards(folder):
        for row in batch.to_pylist():
            rows.setdefault(row["name"], []).append(row)
    for document in documents[:5]:
        own = target.predict(document.text, top_k=12)
        expected = transfer(source.predict(document.text, top_k=12), own.encoding, index, own=own)
        parts = rows[document.name]
        assert max(len(part["tokens"]) for part in parts) <= 24
        assert [token for part in parts for token in part["tokens"]] == own.encoding.ids.tolist()
        token = 0
        for part in parts:
            at = 0
            for count, covered in zip(part["counts"], part["covered"], strict=True):
                if token:
                    ids, probs = expected.at(token - 1)
                    assert covered == expected.covered[token - 1]
                    found = dict(zip(part["ids"][at : at + count], part["logprobs"][at : at + count], strict=True))
                    for i, p in list(zip(ids.tolist(), probs.tolist(), strict=True))[:5]:
                        assert np.exp(found.get(i, -np.inf)) == pytest.approx(p, abs=2e-3)
                else:
                    assert count == 0 and not covered
                at, token = at + count, token + 1


@pytest.mark.parametrize("start", [None, 1])
def test_the_collator_lines_up_logits_gold_and_distributions(
    tmp_path: Path, models: tuple[str, str], start: int | None
) -> None:
    config = tiny_config(tmp_path, models)
    examples = Examples(prepare(config, split_corpus(config).train, quiet))
    rows = [examples[n] for n in range(3)]
    batch = Collator(start)(rows)
    for r, row in enumerate(rows):
        tokens, bounds = row["tokens"].tolist(), np.concatenate(([0], np.cumsum(row["counts"])))
        read = batch["input_ids"][r][batch["attention_mask"][r].bool()].tolist()
        assert read == [*([] if start is None else [start]), *tokens]
        places = np.flatnonzero(batch["labels"][r].ne(-100).numpy()).tolist()
        assert [read[p + 1] for p in places] == batch["labels"][r][places].tolist()
        for p in places:
            t = p + 1 - (start is not None)  # the example's token that place p predicts
            part = slice(bounds[t], bounds[t + 1])
            count = bounds[t + 1] - bounds[t]
            assert batch["target_ids"][r, p, :count].tolist() == row["ids"][part].tolist()
            assert bool(batch["covered"][r, p]) == bool(row["covered"][t])
            assert batch["target_probs"][r, p, count:].sum() == 0


def test_what_a_gpu_would_not_say_is_said_before(tmp_path: Path, models: tuple[str, str]) -> None:
    config = tiny_config(tmp_path, models)
    row = Examples(prepare(config, split_corpus(config).train, quiet))[0]
    collate = Collator(None, entries=440)
    for name, value in (("ids", 440), ("ids", -1), ("logprobs", np.nan), ("logprobs", np.inf)):
        bad = {**row, name: row[name].copy()}
        bad[name][3] = value
        with pytest.raises(DistributionError, match="holds ids that the target does not have, or no log-prob"):
            collate([row, bad])
    with pytest.raises(ModelError, match="the tokenizer gave the id 440"):
        collate([{**row, "tokens": row["tokens"] * 0 + 440}])
    assert collate([row])["target_ids"].shape[0] == 1


def test_another_process_maps_the_file_by_itself(tmp_path: Path, models: tuple[str, str]) -> None:
    config = tiny_config(tmp_path, models)
    examples = Examples(prepare(config, split_corpus(config).train, quiet))
    sent = pickle.dumps(examples)
    assert len(sent) < 1000
    there = pickle.loads(sent)
    assert len(there) == len(examples) and there[2]["ids"].tolist() == examples[2]["ids"].tolist()


def test_a_damaged_file_of_examples_is_made_anew(tmp_path: Path, models: tuple[str, str]) -> None:
    config = tiny_config(tmp_path, models, sources=[])
    folder = prepare(config, split_corpus(config).train, quiet)
    before = [Examples(folder)[n]["tokens"].tolist() for n in range(4)]
    (file,) = folder.glob("examples-*.arrow")
    data = bytearray(file.read_bytes())
    for place in range(len(data) // 4, 3 * len(data) // 4, 8):
        data[place] ^= 1
    file.write_bytes(data)
    assert [Examples(folder)[n]["tokens"].tolist() for n in range(4)] == before


def test_runs_on_one_data_folder_do_not_take_each_others_texts(tmp_path: Path, models: tuple[str, str]) -> None:
    """The other one begins, on a text that was changed, when this one has taught and not yet carried over."""
    mine = tiny_config(tmp_path, models, data=str(tmp_path / "data"))
    splits = split_corpus(mine)
    others: list[threading.Thread] = []

    def other() -> None:
        text = tmp_path / "lines.txt"
        text.write_text(text.read_text(encoding="utf-8").replace("fox", "cat"), encoding="utf-8")
        with sharing(mine, quiet):
            prepare(mine, split_corpus(mine).train, quiet)

    def say(line: str) -> None:
        if line.startswith(f"teach {models[0]}"):
            others.append(threading.Thread(target=other))
            others[0].start()
            others[0].join(2.0)

    with sharing(mine, quiet):
        folder = prepare(mine, splits.train, say)
        examples = Examples(folder)
    tokens = np.concatenate([examples[n]["tokens"] for n in range(len(examples))])
    read = load_tokenizer(mine.target).vocabulary.join(tokens)
    others[0].join()
    assert b"fox" in read and b"cat" not in read


def test_a_token_that_the_target_cannot_read_is_told(tmp_path: Path, models: tuple[str, str]) -> None:
    config = tiny_config(tmp_path, models, sources=[])
    row = Examples(prepare(config, split_corpus(config).train, quiet))[0]
    with pytest.raises(ModelError, match="the target' reads 3 ids"):
        Collator(None, entries=3)([row])
    assert Collator(None, entries=440)([row])["input_ids"].shape[0] == 1


def test_where_a_source_is_sure_its_rest_is_kept() -> None:
    """A rest of 1e-5 would be nothing beside probabilities rounded to float16, and what reverse_kl asks for most."""
    probs = np.array([0.99999, 0.7, 0.29999], np.float32)
    rest = np.array([1e-5, 1e-5])
    ledger = np.stack([1 - rest, 0 * rest, 0 * rest, rest, 0 * rest], axis=1)
    one = Transfer("made", np.array([0, 1, 3]), np.array([3, 1, 2], np.int32), probs, ledger, np.ones(2, np.bool_), 9)
    documents = pa.RecordBatch.from_pylist(
        [{"name": "a", "domain": "", "text": "abc", "tokens": [1, 2, 3]}],
        schema=pa.schema([carry.CARRIED.field(name) for name in ("name", "domain", "text", "tokens")]),
    )
    rows = carry._rows(documents, [one], [1.0], 8)
    (back,) = carry.carried_of(rows, 9)
    assert back.probs == pytest.approx(probs, rel=1e-3) and back.rest[0] == pytest.approx(1e-5, rel=1e-2)
    tensors = Collator(None)([example(pack(rows, 8), 0)])
    assert 1.0 - tensors["target_probs"][0, 0].double().sum() == pytest.approx(1e-5, rel=2e-2)


@pytest.mark.parametrize("kind", ["hard", "soft", "ot"])
def test_the_published_rules_are_the_published_code(tmp_path: Path, kind: str) -> None:
    a, b = (load_tokenizer(tiny.train(kind, tmp_path)) for kind in ("byte-bpe", "metaspace-bpe"))
    source, own = (random_predictions(side, LINES[0], n, top_k=12) for n, side in enumerate((a, b)))
    found = carry.published(source, own, f"published-{kind}", carry.soft_pieces(a, b))
    soft = map_vocabulary(a, b, kind="soft", form="pieces")
    pieces = [piece.replace(a.space_marker, b.space_marker) for piece in a.vocabulary.pieces]
    nearest = {piece: b.vocabulary.pieces[j] for piece, j in zip(pieces, soft.best.tolist(), strict=True)}
    ids, logits = transform_step_logits(
        source.encoding.pieces, own.encoding.pieces, source.top.ids[1:], source.top.logprobs[1:],
        source_vocab=dict(enumerate(a.vocabulary.pieces)), target_vocab=b.vocabulary.by_piece,
        source_marker=a.space_marker, target_marker=b.space_marker, kind=kind, soft_mapping=nearest,
        target_topk_ids=own.top.ids[1:], target_topk_logits=own.top.logprobs[1:],
    )  # fmt: skip
    assert found.covered.all() and found.method == f"published-{kind}"
    for i in range(len(found)):
        expected = torch.softmax(torch.tensor(logits[i], dtype=torch.float64), dim=0).tolist()
        assert dict(zip(*(x.tolist() for x in found.at(i)), strict=True)) == pytest.approx(
            dict(zip(ids[i], expected, strict=True)), abs=1e-6
        )


@pytest.mark.parametrize("kind", ["hard", "soft", "ot"])
def test_the_published_rules_read_no_entry_that_was_kept_for_the_texts_sake(models: tuple[str, str], kind: str) -> None:
    """FuseLLM asks its models for the most probable entries alone, the gold token among them or not."""
    loaded = [load_model(name, device="cpu") for name in models]
    index = build_index(*(model.tokenizer for model in loaded))
    (batch,) = teach.batches([Document(f"d{n}", "", line) for n, line in enumerate(LINES[:3])])

    def carried(top_k: int, keep: str) -> pa.RecordBatch:
        sides = dict(zip(("source", "target"), loaded, strict=True))
        settings = {side: teach.settings(model, top_k, keep) for side, model in sides.items()}
        taught = carry.join({side: teach.teach(batch, model, top_k, keep) for side, model in sides.items()})
        return carry.carry(taught, settings, index, f"published-{kind}", 16)

    found, expected = carried(15, "text"), carried(8, "best")
    for name in ("counts", "ids", "covered"):
        assert found.column(name) == expected.column(name)
    ours, theirs = (one.column("logprobs").flatten().to_numpy().astype(float) for one in (found, expected))
    assert ours == pytest.approx(theirs, abs=5e-3)


def test_teaching_settings_make_other_shards(tmp_path: Path, models: tuple[str, str]) -> None:
    config = tiny_config(tmp_path, models)
    lines: list[str] = []
    prepare(config, split_corpus(config).train, lines.append)
    assert all(", 0 kept" in line for line in lines)
    lines.clear()
    prepare(config, split_corpus(config).train, lines.append)
    assert all(": 0 shards made" in line for line in lines) and len(lines) == 4
    lines.clear()
    changed = tiny_config(tmp_path, models, sources=[{"model": models[0], "method": "boundary-hard"}])
    prepare(changed, split_corpus(changed).train, lines.append)
    assert [line.split(":")[1].startswith(" 0") for line in lines] == [True, True, False, False]
    assert all(teach.open_taught(path).top_k == 12 for path in (config.output / "data").glob("teach-*"))


def test_shards_of_an_older_revision_are_made_anew(
    tmp_path: Path, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, models)
    prepare(config, split_corpus(config).train, quiet)
    monkeypatch.setattr(carry, "REVISION", carry.REVISION + 1)
    lines: list[str] = []
    prepare(config, split_corpus(config).train, lines.append)
    assert [line.split(":")[1].startswith(" 0") for line in lines] == [True, True, False, False]


def test_runs_that_share_their_data_may_ask_for_different_limits(tmp_path: Path, models: tuple[str, str]) -> None:
    corpus = tiny_config(tmp_path, models).corpus.model_dump(mode="json", exclude_none=True)
    sizes = []
    for limit in (20, 8):
        config = tiny_config(
            tmp_path, models, sources=[], data=str(tmp_path / "data"), corpus={**corpus, "limit": limit}
        )
        sizes.append((len(Examples(prepare(config, split_corpus(config).train, quiet))), config))
    assert sizes[0][0] > sizes[1][0]
    again = sizes[0][1]
    lines: list[str] = []
    prepare(again, split_corpus(again).train, lines.append)
    assert all(": 0 shards made" in line for line in lines)
