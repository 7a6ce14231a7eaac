"""Names and messages inside Markdown, which Streamlit reads in labels, captions, spinners and alerts."""

from __future__ import annotations


def plain(text: str) -> str:
    """`text` such that Markdown shows it as it is."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]()#+-.!|<>$:~&\"'" else char for char in text)
