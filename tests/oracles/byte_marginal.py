"""The exact distribution of the next target token, by writing out all that a tiny source may say.

Both sides take the longest entry that fits. The source is any function from what it has written (its tokens) to
weights of the next one; it never writes what its own tokenizer would cut otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Weights = Callable[[tuple[str, ...]], dict[str, float]]


def longest_match(text: str, words: Sequence[str]) -> list[str]:
    out = []
    while text:
        word = max((w for w in words if text.startswith(w)), key=len)
        out.append(word)
        text = text[len(word) :]
    return out


def next_probs(said: tuple[str, ...], words: Sequence[str], weights: Weights) -> dict[str, float]:
    """What the source says next: its weights among the tokens that leave its text cut as it is."""
    fitting = {w: p for w, p in weights(said).items() if longest_match("".join((*said, w)), words) == [*said, w]}
    total = sum(fitting.values())
    return {w: p / total for w, p in fitting.items()}


def first_target_token(
    words: Sequence[str], target: Sequence[str], weights: Weights, read: Callable[[str], str] = str
) -> dict[str, float]:
    """Target word -> probability that the text, from its start and as the target reads it, begins with it."""
    longest = max(map(len, target))
    found: dict[str, float] = {}
    unfinished: dict[tuple[str, ...], float] = {(): 1.0}
    while unfinished:
        said, mass = unfinished.popitem()
        if mass < 1e-7:  # what reads like nothing could go on for ever
            continue
        text = read("".join(said))
        following = next_probs(said, words, weights)
        if len(text) >= longest or not following:  # settled, or nothing can follow
            if fitting := [word for word in target if text.startswith(word)]:
                first = max(fitting, key=len)
                found[first] = found.get(first, 0.0) + mass
            continue
        for word, p in following.items():
            unfinished[(*said, word)] = mass * p
    return found
