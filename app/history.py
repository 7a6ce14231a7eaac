"""One entry of the browser's history for one action.

Where a page is opened Streamlit makes two, of its path and of its query, in the one order or the other: to go back was
to land on half an address.
"""

from __future__ import annotations

import streamlit as st

from app.assets import asset


def one_entry_an_action() -> None:
    """To be called in every run, on any page."""
    component = st.components.v2.component(
        "one_entry",
        html='<i class="one-entry"></i>',
        css=asset("history.css"),
        js=asset("history.js"),
        isolate_styles=False,
    )
    component(key="one_entry")
