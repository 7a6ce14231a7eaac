"""The Training page in a browser: from the form to a finished model, on tiny models."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Page, expect

from fusion_core.sealed import write_json
from tests.support import tiny
from tests.support.launch import launched
from tests.support.page import settled
from training import runs
from training.progress import Journal, Standing

pytest.importorskip("torch")
pytestmark = [pytest.mark.browser, pytest.mark.slow]
Shoot = Callable[[Page, str], None]


def _config(folder: Path, lines: int) -> dict[str, Any]:
    """Of a run of seconds, its models and its text in `folder`."""
    folder.mkdir()
    kinds = ("byte-bpe", "metaspace-bpe")
    source, target = (str(tiny.save_model(folder / kind, kind, n)) for n, kind in enumerate(kinds))
    text = folder / "lines.txt"
    text.write_text("\n".join(f"the quick brown fox jumps over {n} lazy dogs" for n in range(lines)), encoding="utf-8")
    return {
        "target": target,
        "sources": [{"model": source}],
        "corpus": {"files": [str(text)], "paragraphs": True, "validation": 0.2, "held_out": 0.2},
        "teach": {"top_k": 8, "device": "cpu"},
        "training": {"max_steps": 8, "use_cpu": True, "logging_steps": 1, "learning_rate": 0.002},
    }


def test_from_the_form_to_a_finished_model(address: str, page: Page, shoot: Shoot, workspace_folder: Path) -> None:
    config = _config(workspace_folder / "page", 30)
    page.goto(f"{address}/training")
    expect(page.get_by_text("A new run")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("num_train_epochs").first).to_be_visible()
    shoot(page, "training-form")
    page.get_by_text("Edit as YAML").click()
    area = page.get_by_role("textbox", name="Config")
    area.fill("target: x\nlos: {}")
    area.press("Control+Enter")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_test_id("stAlert").first).to_contain_text("did you mean 'loss'")
    area.fill(yaml.safe_dump(config))
    area.press("Control+Enter")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_text("The config is valid.")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("to be done").first).to_be_visible()
    settled(page)
    page.reload()  # what was edited is in the address
    expect(area).to_have_value(re.compile("max_steps: 8"), timeout=60_000)
    page.get_by_role("textbox", name="Name of the run").fill("tiny-run")
    page.get_by_role("textbox", name="Name of the run").press("Enter")
    page.get_by_role("button", name="Launch").click()
    expect(page.get_by_text(re.compile("tiny-run: running")).first).to_be_visible(timeout=30_000)
    page.reload()  # the run does not depend on the page
    expect(page.get_by_text(re.compile("tiny-run: finished")).first).to_be_visible(timeout=120_000)
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    expect(page.get_by_text("fusescope evaluate").first).to_be_visible()
    shoot(page, "training-finished")
    result = json.loads((workspace_folder / "runs" / "tiny-run" / "run.json").read_text())
    assert result["steps"] == 8 and result["validation_after"] is not None
    # What it was trained on opens on the other pages.
    page.get_by_role("button", name="Open in Distributions").click()
    expect(page.get_by_text("What comes next?")).to_be_visible(timeout=120_000)
    expect(page.get_by_role("combobox", name="Document")).to_have_value(re.compile(r"^lines\.txt:"))
    shoot(page, "training-example")
    # Also where another text was chosen before.
    page.goto(f"{address}/?example=Code")
    expect(page.get_by_role("radio", name="Code")).to_be_checked(timeout=60_000)
    page.get_by_role("link", name="Training").click()
    page.get_by_role("button", name="Open in Alignment").click(timeout=60_000)
    expect(page.get_by_role("textbox", name="Your text")).to_contain_text("lazy dogs", timeout=60_000)


def test_a_run_of_the_command_line_is_shown_and_its_texts_open(
    address: str, page: Page, shoot: Shoot, workspace_folder: Path
) -> None:
    folder = workspace_folder / "by-hand"
    config = {**_config(folder, 20), "output": str(folder / "runs" / "one")}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    launched("training", "train", file)
    page.goto(f"{address}/training?train_picked=by-hand/runs/one&texts_of=by-hand/runs/one")
    expect(page.get_by_text("by-hand/runs/one: finished")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("started on the command line")).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    shoot(page, "training-by-hand")
    page.get_by_text("With the target before training").click()
    settled(page)
    page.get_by_role("button", name="Compare on held-out documents").click()
    expect(page.get_by_text("5 documents of the first run's corpus")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("button", name="Comparison as CSV")).to_be_visible()
    shoot(page, "training-compared")
    page.get_by_role("button", name="Open in Distributions").click(timeout=60_000)
    expect(page.get_by_text("What comes next?")).to_be_visible(timeout=120_000)


def test_what_cannot_be_trained_is_not_launched_and_what_failed_can_be_removed(
    address: str, page: Page, workspace_folder: Path
) -> None:
    failed = workspace_folder / "runs" / "failed-run"
    failed.mkdir(parents=True)
    (failed / "launch.yaml").write_text("target: smollm2-135m\ncorpus: {name: stdlib-code}\noutput: x\n")
    text = workspace_folder / "short.txt"
    text.write_text("\n".join(f"{n} the quick brown fox " * 90 for n in range(8)), encoding="utf-8")
    target = tiny.save_model(workspace_folder / "short", "byte-bpe", 1)
    corpus = {"files": [str(text)], "paragraphs": True}
    page.goto(f"{address}/training?train_picked=failed-run")
    page.get_by_text("Edit as YAML").click(timeout=60_000)
    area = page.get_by_role("textbox", name="Config")
    area.fill(yaml.safe_dump({"target": str(target), "corpus": corpus, "max_length": 512}))
    area.press("Control+Enter")
    settled(page)
    page.get_by_role("textbox", name="Name of the run").fill("never")
    page.get_by_role("textbox", name="Name of the run").press("Enter")
    settled(page)
    page.get_by_role("button", name="Launch").click()
    expect(page.get_by_test_id("stAlert").first).to_contain_text("max_length", timeout=30_000)
    assert not (workspace_folder / "runs" / "never").exists()
    expect(page.get_by_text("failed-run: failed")).to_be_visible(timeout=30_000)
    settled(page)
    page.get_by_role("button", name="Remove", exact=True).click()
    page.get_by_role("button", name="Remove the run").click()
    expect(page.get_by_text("failed-run: failed")).to_have_count(0, timeout=30_000)
    assert not failed.exists()


def test_files_outside_are_refused(address: str, page: Page) -> None:
    page.goto(f"{address}/training")
    page.get_by_text("Edit as YAML").click(timeout=60_000)
    area = page.get_by_role("textbox", name="Config")
    for training, says in (
        ("corpus: {files: [/etc/passwd]}", "lies outside the folders"),
        ("corpus: {name: stdlib-code}\ntraining: {deepspeed: /tmp/x}", "outside the run's folder"),
    ):
        area.fill(f"target: smollm2-135m\n{training}")
        area.press("Control+Enter")
        settled(page)
        page.get_by_role("button", name="Check").click()
        expect(page.get_by_test_id("stAlert").first).to_contain_text(says, timeout=10_000)


def test_a_run_shows_how_far_it_is(address: str, page: Page, shoot: Shoot, workspace_folder: Path) -> None:
    folder = workspace_folder / "runs" / "busy-run"
    folder.mkdir(parents=True)
    (folder / "launch.yaml").write_text("target: smollm2-135m\ncorpus: {name: stdlib-code}\noutput: x\n")
    process = subprocess.Popen(["sleep", "600"])
    try:
        born = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
        write_json(folder / "process.json", runs.FORMAT, runs.VERSION, {"pid": process.pid, "born": born})
        Journal(folder)(Standing("teach gemma-3-270m", 2, 5, 61.5, 246.0))
        page.goto(f"{address}/training")
        told = page.get_by_text("teach gemma-3-270m, 2 of 5: 61 of 246 documents")
        expect(told).to_be_visible(timeout=60_000)
        shoot(page, "training-running")
        Journal(folder)(Standing("train", 5, 5, 3.0, 120.0, "steps"))
        expect(page.get_by_text("train, 5 of 5: 3 of 120 steps")).to_be_visible(timeout=30_000)
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_text("busy-run: stopped")).to_be_visible(timeout=30_000)
    finally:
        process.kill()
        process.wait()
