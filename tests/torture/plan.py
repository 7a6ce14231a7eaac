"""All checks by section, each a function of a folder and of how much of it is wanted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.torture import extremes, faults, guided, install, killing, load, sandbox
from tests.torture.outcome import Row

# Generated cases of each family in a whole run; about as many seconds are spent on the slow ones as on the fast ones.
FAMILIES: dict[str, dict[str, int]] = {
    "bad_tokenizers": {
        "tokenizer_json_values": 10_000, "tokenizer_json_bytes": 10_000, "sentencepiece_models": 8_000,
        "tiktoken_files": 5_000, "tekken_files": 5_000, "gguf_files": 4_000, "folders": 3_000, "names": 3_000,
    },
    "bad_texts": {"encoding": 15_000, "alignment": 10_000, "transfers": 2_500},
    "bad_arrays": {"logits": 12_000, "packing": 10_000, "fusing": 6_000, "losses": 6_000, "compatible_mode": 6_000},
    "bad_files": {
        "sealed_files": 6_000, "shards": 4_000, "run_folders": 4_000, "configs": 1_500, "corpora": 5_000,
        "run_names": 3_000, "model_folders": 800,
    },
}  # fmt: skip


def bad_input(share: float) -> list[Row]:
    """Every family, two at a time; then the extremes."""
    wanted = [
        (f"tests.torture.{module}", name, max(20, round(count * share)))
        for module, families in FAMILIES.items()
        for name, count in families.items()
    ]
    wanted.sort(
        key=lambda one: one[1] not in ("configs", "model_folders", "transfers", "folders")
    )  # the slow ones first
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        rows = list(pool.map(lambda one: sandbox.run(*one), wanted))
    if share >= 1:
        rows.append(sandbox.run("tests.torture.extremes", "extremes", extremes.count(), seconds=30))
    return rows


def _in_folder(check: Callable[[Path], list[Row] | Row]) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        found = check(Path(folder))
    return found if isinstance(found, list) else [found]


def crashes(share: float) -> list[Row]:
    """Kills, 50 of each kind in a whole run."""
    kills = max(4, round(50 * share))
    return [
        *_in_folder(lambda folder: killing.stages(folder, kills)),
        *_in_folder(lambda folder: killing.training(folder, kills)),
        *_in_folder(lambda folder: killing.app_workspace(folder, kills)),
    ]


def all_faults(share: float) -> list[Row]:
    """A full disk, a read-only workspace, two processes."""
    rounds = max(1, round(4 * share))
    return [
        *_in_folder(faults.full_disk),
        *_in_folder(faults.read_only),
        *_in_folder(lambda folder: faults.two_at_once(folder, rounds)),
    ]


def under_load(share: float) -> list[Row]:
    """Twenty sessions; in a short run without browsers, which other tests drive."""
    if share >= 1:
        return _in_folder(lambda folder: load.load(folder, 90.0))
    return _in_folder(lambda folder: load.load(folder, 8.0, browsers=0, pause=2.0, models=False, timed=False))


SECTIONS: dict[str, Callable[[float], list[Row]]] = {
    "input": bad_input,
    "guided": guided.guided,
    "crashes": crashes,
    "faults": all_faults,
    "load": under_load,
    "install": lambda share: _in_folder(install.install),
}
