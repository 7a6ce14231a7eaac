"""The app's entry: `fusescope app` runs this script."""

from __future__ import annotations

import streamlit as st

from app import state
from app.history import one_entry_an_action

# Not a folder called "pages": Streamlit would take its files for pages of its own.
from app.views import alignment, distributions, training, vocabulary


def main() -> None:
    """Choose the page that the address asks for, and run it."""
    st.set_page_config(page_title="fusescope", page_icon=":material/join_inner:", layout="wide")
    pages = [
        st.Page(alignment.render, title="Alignment", icon=":material/compare_arrows:", default=True),
        st.Page(vocabulary.render, title="Vocabulary", icon=":material/dictionary:", url_path="vocabulary"),
        st.Page(distributions.render, title="Distributions", icon=":material/bar_chart:", url_path="distributions"),
        st.Page(training.render, title="Training", icon=":material/model_training:", url_path="training"),
    ]
    # For the buttons of one page that open another.
    st.session_state["_pages"] = {one.url_path or "alignment": one for one in pages}
    # The default page has no path; this one is for who types or links its name.
    named = st.Page(alignment.render, title="Alignment", url_path="alignment", visibility="hidden")
    page = st.navigation([*pages, named], position="top")
    views = {"vocabulary": vocabulary, "distributions": distributions, "training": training}
    fields = views.get(page.url_path, alignment).FIELDS
    one_entry_an_action()
    state.show(page.url_path, fields, page.run)


if __name__ == "__main__":  # not where a worker process reads this file again
    main()
