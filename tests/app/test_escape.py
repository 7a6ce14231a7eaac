"""Names and messages as a page shows them: whole, and as text."""

from __future__ import annotations

import html

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from app.escape import drawn, plain


@given(st.text(alphabet="ab1-_.:/*[]()<>&\\`$#+!~|{}\"'=", min_size=1, max_size=20))
def test_markdown_shows_a_name_as_it_is(text: str) -> None:
    shown = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(plain(text))
    assert html.unescape(shown.removeprefix("<p>").removesuffix("</p>\n")) == text


def test_a_figure_shows_a_name_as_it_is() -> None:
    assert drawn("target smollm2-135m [x] a_b.c") == "target smollm2-135m [x] a_b.c"
    assert drawn("<b>x</b> &lt;") == "‹b>x‹/b> ＆lt;"
