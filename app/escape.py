"""Names and messages inside Markdown, which Streamlit reads in labels, captions and alerts, and inside figures."""

from __future__ import annotations


def plain(text: str) -> str:
    """`text` such that Markdown shows it as it is."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]()#+-.!|<>$:~&\"'" else char for char in text)


def drawn(text: str) -> str:
    """`text` such that Plotly, which reads a little HTML in titles, labels and hover texts, shows it as it is."""
    return text.replace("<", "‹").replace("&", "＆")
