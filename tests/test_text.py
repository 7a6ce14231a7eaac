"""Bytes as a person reads them."""

from __future__ import annotations

import pytest

from fusion_core.text import show_bytes


@pytest.mark.parametrize(
    ("text", "plain", "invisible"),
    [
        ("a b\n", "a b\n", "a␣b⏎"),
        ("\x00\x1b\x7f", "␀␛␡", "␀␛␡"),
        ("\x80\x9b", "[U+0080][U+009B]", "[U+0080][U+009B]"),  # the second begins a command to a terminal
        ("\u202ea\u2066", "[U+202E]a[U+2066]", "[U+202E]a[U+2066]"),  # what follows would run backwards
        ("a\u3000b\u00ad\ue000", "a\u3000b\u00ad\ue000", "a[U+3000]b[U+00AD][U+E000]"),
        ("naïve 東京 👩\u200d🚀 ❤\ufe0f", "naïve 東京 👩\u200d🚀 ❤\ufe0f", "naïve␣東京␣👩[ZWJ]🚀␣❤\ufe0f"),
    ],
)
def test_what_leaves_no_mark_is_named(text: str, plain: str, invisible: str) -> None:
    assert show_bytes(text.encode()) == plain
    assert show_bytes(text.encode(), invisible=True) == invisible


def test_what_is_no_utf8_is_shown_byte_by_byte() -> None:
    assert show_bytes(b"a\xe6\x9d b\xff") == "a\\xE6\\x9D b\\xFF"
