"""Texts: the examples, and the user's own, which the URL carries if they are short and the workspace keeps if not."""

from __future__ import annotations

import hashlib
import re

from fusion_core.errors import TextError
from fusion_core.workspace import atomic_path, workspace

EXAMPLES: dict[str, str] = {
    "Prose": (
        "Dr. Okonkwo-Reilly re-scheduled the hearing: nobody had expected such an overwhelming response, "
        "and the antechamber of the old courthouse couldn't hold them all. \u201cNevertheless,\u201d she said, "
        "\u201cwe'll begin at 9:30 a.m. sharp.\u201d"
    ),
    "Code": (
        "def moving_average(values: list[float], width: int = 3) -> list[float]:\n"
        '    """Mean of each window of `width` values."""\n'
        "    if width < 1:\n"
        '        raise ValueError(f"width must be positive, got {width!r}")\n'
        "    total = sum(values[:width])\n"
        "    out = [total / width]\n"
        "    for i in range(width, len(values)):\n"
        "        total += values[i] - values[i - width]\n"
        "        out.append(total / width)\n"
        "    return out\n"
    ),
    "Chinese": (
        "大语言模型的知识融合，关键在于词元对齐：不同的模型使用不同的分词器，"
        "因此同一句话被切分成不同的片段，概率分布也无法直接比较。"
    ),
    "Mixed scripts": (
        "naïve café — Ünïcödé 🙂👩‍🔬 ½ ≠ ⅓; Москва, القاهرة, दिल्ली, 東京, 서울.\r\n\tTabs\tand   spaces, e\u0301 and é."
    ),
    "Numbers": (
        "3.14159265358979 1,234,567.89 0x7fff_ffff 2026-11-23T22:36:00Z 1e-10 +44 20 7946 0958 192.168.0.1:8080"
    ),
}
# Among the examples, the text that the user brings.
OWN = "Your own"

# What a page analyses at most, and what the URL carries at most.
LIMIT_BYTES = 64_000
_URL_BYTES = 1_500
_KEY = re.compile(r"[0-9a-f]{32}\Z")


def clip(text: str, limit: int = LIMIT_BYTES) -> str:
    """The start of `text`, at most `limit` bytes long, cut between characters."""
    data = text.encode("utf-8", "surrogatepass")
    return text if len(data) <= limit else data[:limit].decode("utf-8", "ignore")


def remember(text: str) -> dict[str, str]:
    """The URL parameters from which `recall` gets `text` back; raises `TextError` if a long text cannot be kept."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= _URL_BYTES:
        return {"text": text}
    key = _key(data)
    path = workspace() / "texts" / f"{key}.txt"
    if not path.exists():
        try:
            with atomic_path(path) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            raise TextError(f"cannot write to the workspace folder: {error.strerror or error}") from error
    return {"text_id": key}


def _key(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def recall(text: str | None, text_id: str | None) -> str | None:
    """The text that the URL's parameters stand for, None if they stand for none."""
    if text is not None:
        return text
    if text_id is None or not _KEY.match(text_id):
        return None
    try:
        data = (workspace() / "texts" / f"{text_id}.txt").read_bytes()
        return data.decode("utf-8", "surrogatepass") if _key(data) == text_id else None
    except (OSError, UnicodeDecodeError):
        return None
