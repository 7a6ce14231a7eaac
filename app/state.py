"""What outlives a switch of pages: every page asks about the same two tokenizers and the same text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import streamlit as st

# Keys of the widgets that pages share. Streamlit drops what they hold, and its part of the URL, on a page switch.
SHARED = ("source", "target", "example")
# What the Distributions page was about; the Training page begins with it.
REMEMBERED = ("models", "target_model", "strip_method")
_KEY = "_choices"


T = TypeVar("T")


@dataclass
class Choices:
    """One per session: the page last shown, what its shared widgets held, and what is remembered for later pages."""

    page: str | None = None
    values: dict[str, str] = field(default_factory=dict)
    remembered: dict[str, Any] = field(default_factory=dict)


def carry_over(page: str) -> None:
    """Give `page`, which is about to run, the choices made on the page before, unless its address says otherwise."""
    choices: Choices = st.session_state.setdefault(_KEY, Choices())
    choices.remembered.update({key: st.session_state[key] for key in REMEMBERED if st.session_state.get(key)})
    choices.values.update({key: st.session_state[key] for key in SHARED if st.session_state.get(key) is not None})
    if choices.page not in (None, page):
        carried = {key: value for key, value in choices.values.items() if key not in st.query_params}
        st.query_params.update(carried)
        for key, value in carried.items():
            st.session_state[key] = value
    choices.page = page


def hand_over(values: dict[str, str]) -> None:
    """Let the page that is opened next show these values of its shared widgets."""
    choices: Choices = st.session_state.setdefault(_KEY, Choices())
    choices.values.update(values)
    for key in values:
        if key in st.query_params:
            del st.query_params[key]
        # What was carried here from an earlier page would be taken for a choice made since.
        st.session_state.pop(key, None)


def remembered(key: str, default: T) -> T:
    """What a widget of `REMEMBERED` last held on its page, `default` if it was never shown."""
    choices: Choices = st.session_state.setdefault(_KEY, Choices())
    found: T = choices.remembered.get(key, default)
    return found
