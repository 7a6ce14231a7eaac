"""lm-eval's tasks on a saved model give what the model itself says; what cannot be run is told in words."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fusion_core import ConfigError, TrainingError
from tests.support import requires, tiny
from training.harness import Harness

_TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
_WORDS = ("fox", "dog", "return", "def", "quick", "lazy")
_CHOICES = [f" {word}" for word in _WORDS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tasks: one about words, one whose data is not there."""
    requires.harness()
    rows = [
        {"question": f"the {a} jumps over the {b}", "choices": _CHOICES, "answer": i % len(_WORDS)}
        for i, (a, b) in enumerate(itertools.product(_WORDS, repeat=2))
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name, path in (("words", data), ("nothing", tmp_path / "absent.jsonl")):
        (tasks / f"{name}.yaml").write_text(_TASK.format(name=name, data=path), encoding="utf-8")
    return tasks


def _run(folder: Path) -> Path:
    """A run's folder with a small model in it."""
    from transformers import PreTrainedTokenizerFast

    model = tiny.save_model(folder / "model", "byte-bpe", 1)
    file = str(model / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=file, bos_token="<s>", eos_token="</s>").save_pretrained(str(model))
    return folder


def test_a_task_of_ones_own_is_judged_as_the_model_would(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusion_core.models import load_model

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    run = _run(tmp_path)
    (row,) = (r for r in Harness("words", folder).run([run]) if r["metric"] == "acc")
    model = load_model(str(run / "model"), device="cpu")
    hits = []
    for line in (tmp_path / "data.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        # The question is the same for every choice, so that the whole text's cost ranks them as the choice's does.
        costs = [one.nll.sum() for one in model.score([case["question"] + choice for choice in case["choices"]])]
        hits.append(int(np.argmin(costs)) == case["answer"])
    assert (row["run"], row["task"]) == (str(run), "words")
    assert row["value"] == pytest.approx(np.mean(hits))


def test_what_cannot_be_run_is_told(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="knows no task 'wrods'"):
        Harness("words, wrods", folder)
    with pytest.raises(ConfigError, match="no folder"):
        Harness("words", tmp_path / "elsewhere")
    with pytest.raises(TrainingError, match="lm-eval cannot run nothing on"):
        Harness("nothing", folder).run([_run(tmp_path)])


def test_without_the_harness_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(ConfigError, match=r"pip install 'fusescope\[lm-eval\]'"):
        Harness("words")
