"""What every page asks for: two tokenizers and a text. All of it is in the URL."""

from __future__ import annotations

import math
from typing import NoReturn

import streamlit as st

from app import results, state, texts
from app.escape import plain
from fusion_core.errors import FusionError
from fusion_core.tokenizers import SAMPLES, Tokenizer

# The widgets of what every page asks for, in its address.
FIELDS = {
    "source": state.Field(),
    "target": state.Field(),
    "example": state.Field(options=(*texts.EXAMPLES, texts.OWN)),
}


def stop_with(error: FusionError) -> NoReturn:
    """Show an error of ours, and nothing else below it."""
    st.error(plain(str(error)), icon=":material/error:")
    st.stop()


def pick_tokenizers() -> tuple[Tokenizer, Tokenizer]:
    """The two pickers, and what they name; an error of ours ends the page with its message."""
    names = [sample.name for sample in SAMPLES.values() if sample.installed]
    if not names:
        st.info("No sample tokenizers are installed; type a hub id or a path, or run `make app` again.")
    chosen = []
    columns = st.columns(2)
    for column, side, default in zip(columns, ("source", "target"), (names[:1], names[:2]), strict=True):
        state.begin_with(side, default[-1] if default else None)
        chosen.append(
            column.selectbox(
                f"{side.capitalize()} tokenizer",
                names,
                index=0 if names else None,
                key=side,
                accept_new_options=True,
                placeholder="a sample, a hub id, or a path",
                help="A sample, or type a hub id (`Qwen/Qwen3-0.6B`), `tiktoken:o200k_base`, or the path of a "
                "tokenizer.json, .model, .tiktoken, tekken.json or .gguf file.",
            )
        )
    loaded = []
    for side, name in zip(("source", "target"), chosen, strict=True):
        if not name:
            st.info(f"Choose a {side} tokenizer.")
            st.stop()
        try:
            with st.spinner(f"Loading {plain(name)} …", show_time=True):
                loaded.append(results.tokenizer(name))
        except FusionError as error:
            stop_with(error)
    return loaded[0], loaded[1]


_IN_ADDRESS = ("text", "text_id")


def _remember(text: str) -> None:
    told: dict[str, str] = {}
    if text:
        try:
            told = texts.remember(text)
        except FusionError as error:
            st.caption(f"This page's address cannot bring your text back: {plain(str(error))}.")
    held = st.query_params
    if any(held.get(name) != told.get(name) for name in _IN_ADDRESS):
        others = {name: held.get_all(name) for name in held if name not in _IN_ADDRESS}
        held.from_dict({**others, **told})  # at once: each change is a step of the browser's history


def pick_text(limit: int = texts.LIMIT_BYTES, whole: str = "`fusescope align SOURCE TARGET --file TEXT`") -> str:
    """The text pickers: an example, the user's own text, or an uploaded file.

    Args:
        limit: bytes of the text that the page works on.
        whole: what to do for all of a longer text, in Markdown.
    """
    state.begin_with("example", "Prose")
    choice = st.segmented_control("Text", [*texts.EXAMPLES, texts.OWN], key="example", required=True)
    if choice != texts.OWN:
        return _bounded(texts.EXAMPLES[choice or "Prose"], limit, whole)
    if "own_text" not in st.session_state or state.gone_back():
        recalled = texts.recall(st.query_params.get("text"), st.query_params.get("text_id"))
        st.session_state.own_text = recalled or ""
    left, right = st.columns([3, 1])
    uploaded = right.file_uploader("or a text file", type=["txt", "md", "py", "json", "jsonl", "csv"], key="upload")
    if uploaded is not None and st.session_state.get("uploaded") != uploaded.file_id:
        st.session_state.uploaded = uploaded.file_id
        st.session_state.unreadable = None
        try:
            st.session_state.own_text = uploaded.getvalue().decode("utf-8")
        except UnicodeDecodeError as error:
            st.session_state.unreadable = error.start
    if uploaded is not None and st.session_state.get("unreadable") is not None:
        byte = st.session_state.unreadable
        right.error(f"The file is not UTF-8 (byte {byte}). Convert it first, for example with iconv.")
    text = left.text_area("Your text", key="own_text", height=140, persist_state="session") or ""
    _remember(text)
    return _bounded(text, limit, whole)


def _bounded(text: str, limit: int, whole: str) -> str:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limit:
        st.warning(
            f"This text has {_size(size)}; the page works on its first {_size(limit)}. For all of it: {whole}.",
            icon=":material/content_cut:",
        )
    return texts.clip(text, limit)


def _size(count: int) -> str:
    # Rounded up, so that a text is never told to be as long as what is left of it.
    whole, unit = (count / 1e6, "MB") if count >= 1e6 else (count / 1e3, "KB")
    return f"{math.ceil(whole * 10) / 10:.1f} {unit}".replace(".0 ", " ")
