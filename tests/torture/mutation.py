"""Ways to spoil data: bytes, JSON trees and texts."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any


class Random(random.Random):
    """The generator of one case, which knows the case's number."""

    def __init__(self, family: str, number: int) -> None:
        super().__init__(f"{family}/{number}")
        self.number = number


TEXTS = (
    "", " ", "\n", "\0", "a\0b", "\ud83d", "x\udcffy", "\u202eabc\u202c", "\u200f\u200e", "a" * 4000, " " * 3000,
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞", "<s></s><unk>[CLS][SEP][PAD]", "<|endoftext|>" * 5,
    "<0x41><0xZZ>", "▁▁▁Ġ##", "👩‍🔬" * 50, "e\u0301" * 100, "ﬁﬂ½İßŉ", "한국어 中文 日本語", "\r\n\r\n\t\t", "\ufeffbom",
    "🏳️‍🌈🇩🇪", "\x1b[31mred\x1b[0m", "क्षि", "ﷺ", "\u2028\u2029", "1" * 500,
)  # fmt: skip


def text(rng: Random) -> str:
    """A text that is hard for some tokenizer, at most a few thousand characters long."""
    parts = []
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        kind = rng.random()
        if kind < 0.5:
            parts.append(rng.choice(TEXTS))
        elif kind < 0.8:
            low, high = rng.choice(
                ((32, 127), (0, 256), (0x300, 0x400), (0x900, 0xA00), (0x4E00, 0x9FFF), (0, 0x10FFFF))
            )
            parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(0, 30))))
        else:
            parts.append(rng.choice(("the quick brown fox ", "def f(x):\n    return x\n", "naïve café ")))
    return "".join(parts)


def spoil(rng: Random, data: bytes) -> bytes:
    """`data` with a few bits flipped, cut short, or with parts moved, doubled, zeroed or replaced."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        size = len(out)
        at = rng.randrange(size + 1) if rng.random() < 0.6 else rng.randrange(min(size, 64) + 1)
        length = rng.choice((1, 2, 4, 8, 64, 1024))
        how = rng.randrange(7)
        if how == 0 and size:
            out[at % size] ^= 1 << rng.randrange(8)
        elif how == 1:
            del out[at:]
        elif how == 2:
            del out[at : at + length]
        elif how == 3:
            out[at:at] = out[at : at + length]
        elif how == 4:
            out[at : at + length] = bytes(min(length, max(0, size - at)))
        elif how == 5:
            out[at : at + length] = rng.randbytes(length)
        else:
            out[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"\xff" * 7 + b"\x7f", b"\x80" + b"\0" * 7))
    return bytes(out)


def _value(rng: Random) -> Any:
    value: Any = rng.choice(
        (None, True, False, -1, 0, 1, 5, 255, 1 << 16, 1 << 24, 1 << 31, 1 << 40, 1 << 63, 1 << 70, -(1 << 63), 0.5,
         1e308, float("nan"), float("inf"), "", "a", "\ud800", "x" * 70_000, "▁", "Ġ", "<unk>", [], {}, [[]], [{}],
         {"type": "BPE"}, {"type": None}, [["a", "b"]], ["a b"], {"a": 0}, {"a": "0"})
    )  # fmt: skip
    return copy.deepcopy(value)


def _places(node: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        found.append((node, key))
        _places(child, found)
    return found


def spoil_json(rng: Random, tree: Any, *, shallow: float = 0.5) -> Any:
    """A copy of a JSON tree with some values replaced, removed, doubled, renamed, or wrapped deeply.

    Args:
        shallow: how often a place is chosen among the first 60, where the settings stand, not in a long vocabulary.
    """
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = _places(tree, [])
        if not places:
            return _value(rng)
        short = [place for place in places if len(place[0]) <= 40]
        node, key = rng.choice(short if short and rng.random() < shallow else places)
        how = rng.randrange(6)
        if how <= 1:
            node[key] = _value(rng)
        elif how == 2:
            del node[key]
        elif how == 3:
            other, place = rng.choice(places)
            node[key] = (
                copy.deepcopy(other[place])
                if place in (other if isinstance(other, dict) else range(len(other)))
                else None
            )
        elif how == 4 and isinstance(node, dict):
            node[rng.choice(("type", "a", "", "\ud800", str(key) + "x"))] = node.pop(key)
        else:
            value = node[key]
            for _ in range(rng.choice((1, 3, 200))):
                value = [value] if rng.random() < 0.7 else {"a": value}
            node[key] = value
    return tree


def as_json(rng: Random, tree: Any) -> bytes:
    """The tree as a file, now and then with a key twice."""
    data = json.dumps(tree).encode()
    if rng.random() < 0.05:
        data = data.replace(b'"type"', b'"type": 1, "type"', 1)
    return data


Case = Callable[[Random], None]
