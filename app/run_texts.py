"""What a run was trained on, opened on the other pages: its documents, and a batch at which it broke."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from app import paths, results, state, texts
from app.escape import plain
from fusion_core import load_tokenizer
from fusion_core.errors import FusionError
from training.config import Config
from training.data import taught_folders
from training.runs import Run


@dataclass(frozen=True)
class _Shown:
    """A text of a run; `place` is where it stands among the documents that all taught folders have, None for others."""

    label: str
    text: str
    place: int | None


def _documents(folders: list[str]) -> list[_Shown]:
    taught = [results.taught(folder) for folder in folders]
    identity = tuple(shard.sha256 for one in taught for shard in one.manifest.shards)

    def listing() -> list[_Shown]:
        # In the order of the Distributions page: that of its target, which it names last.
        rows = [[(doc.name, doc.text) for doc, _, _ in one.listing()] for one in taught]
        held = [{text for _, text in side} for side in rows]
        texts = {text: name for name, text in rows[0] if all(text in side for side in held)}
        return [_Shown(name, text, n) for n, (text, name) in enumerate(texts.items())]

    return results.derived("run texts", identity, listing)


def _broken(run: Run, config: Config) -> list[_Shown]:
    """The rows of the batch that stopped the run, spelled out."""
    path = run.folder / "diverged.npz"
    if not path.is_file():
        return []
    tokenizer = load_tokenizer(config.target)
    with np.load(path, allow_pickle=False) as held:
        rows, labels = held["input_ids"], held["labels"]
    found = []
    for n, (row, label) in enumerate(zip(rows, labels, strict=True)):
        end = int(np.flatnonzero(label != -100).max(initial=-2)) + 2
        data = b"".join(tokenizer.canonical_bytes(int(i)) for i in row[:end] if not tokenizer.is_special(int(i)))
        found.append(_Shown(f"the batch that stopped the run, row {n + 1}", data.decode("utf-8", "replace"), None))
    return found


def show(run: Run, pages: dict[str, Any]) -> None:
    """A picker of the run's texts, with buttons that open the chosen one elsewhere."""
    try:
        config = paths.permitted_config(run.config())
        folders = [str(paths.permitted_folder(str(folder))) for folder in taught_folders(run.written())]
        shown = _broken(run, config) + (_documents(folders) if len(folders) > 1 else [])
    except (FusionError, OSError, ValueError, KeyError) as error:
        st.caption(f"Its texts cannot be shown: {plain(str(error))}")
        return
    if not shown:
        st.caption("Its texts can be opened once models have been taught; a run without sources keeps none.")
        return
    chosen = shown[
        st.selectbox("A text that it is trained on", range(len(shown)), format_func=lambda n: shown[n].label[:80],
                     key=f"text_of_{run.name}")
    ]  # fmt: skip
    st.code(chosen.text[:600], language=None, height=90)
    columns = st.columns([1, 1, 2])
    if columns[0].button("Open in Alignment", key=f"alignment_{run.name}"):
        source = config.sources[0].model if config.sources else config.target
        st.session_state.own_text = chosen.text
        state.hand_over({"source": source, "target": config.target, "example": texts.OWN})
        st.switch_page(pages["alignment"])
    if chosen.place is not None and columns[1].button("Open in Distributions", key=f"distributions_{run.name}"):
        state.hand_over(
            {
                "origin": "Taught shards",
                "source_shards": folders[1:],
                "target_shards": folders[0],
                "document": chosen.place,
            }
        )
        st.switch_page(pages["distributions"])
