"""A text as a tokenizer's normalisation reads it, and which characters of the original it was made of.

The libraries that run tokenizers name only the first of the characters that a composed one came from (é from e and a
combining accent), for combining marks that were put in canonical order the places of other marks, and for what was made
of a ligature and its marks places within either. All of it is set right here by normalising the original again, cluster
by cluster (Unicode Standard Annex 15).
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fusion_core.tokenizers._pieces import SPACE_MARK

_SPACES = (SPACE_MARK, " ")

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# No composed character is made of more than four (a Greek vowel with three marks).
_MOST_COMPOSED = 8
# Writing has no more marks on one character (Annex 15, stream-safe text); in what has, no place is told.
_MOST_MARKS = 30
# Of a cluster that the original does not explain, the characters after it that are looked at with it: a ligature holds
# up to three letters.
_MOST_JOINED = 3


@dataclass(frozen=True)
class Normalised:
    """A text as a tokenizer reads it.

    Attributes:
        text: the normalised text, m characters.
        starts, ends: int64[m], the range of characters of the original text that each one came from.
    """

    text: str
    starts: Ints
    ends: Ints


@dataclass(frozen=True)
class Reading:
    """A normalised text of m characters with what is known of each.

    Attributes:
        normalised: as given, but that a space added in front comes before all of the text.
        ends: int64[m], in characters of the original; a composed character covers all that it was made of.
        kept: bool[m], the character is that of the original (or marks its space).
        tangled: bool[m + 1], what stands before that place was not made of what stands before it in the original.
    """

    normalised: Normalised
    ends: Ints
    kept: Bools
    tangled: Bools


def read(text: str, normalised: Normalised) -> Reading:
    """What `normalised` makes of `text`."""
    chars, starts, ends = normalised.text, normalised.starts.tolist(), normalised.ends.tolist()
    kept = np.fromiter(
        (
            char == text[a:b] or (char == SPACE_MARK and text[a:b] == " ")
            for char, a, b in zip(chars, starts, ends, strict=True)
        ),
        dtype=np.bool_,
        count=len(chars),
    )
    for k, char in enumerate(chars):
        if char not in _SPACES or starts[k] < ends[k]:
            break
        starts[k] = ends[k] = 0
    clusters = _Clusters(text, chars, starts, ends)
    for k in np.flatnonzero(~kept).tolist():
        if k >= clusters.done:
            clusters.settle(k)
    return Reading(
        replace(normalised, starts=np.asarray(starts, dtype=np.int64)),
        np.asarray(clusters.ends, dtype=np.int64),
        kept,
        np.asarray(clusters.tangled, dtype=np.bool_),
    )


class _Clusters:
    """Characters of the normalised text that belong together: marks to what bears them, and what was made of one
    character of the original. Sets right `ends` and `tangled`, of `Reading`, up to `done`."""

    def __init__(self, text: str, chars: str, starts: list[int], ends: list[int]) -> None:
        self._text, self._chars, self._starts, self._reported = text, chars, starts, ends
        self.ends = list(ends)
        self.tangled = [False] * (len(chars) + 1)
        self.done = 0

    def settle(self, k: int) -> None:
        """Deal with the cluster of character `k`, and with those after it that cannot be told from it."""
        first, stop = k, self._stop(k + 1)
        while first > self.done and self._belongs(first):
            first -= 1
        self.done = stop
        if self._too_long(first, stop):
            return
        added = self._chars[first] in _SPACES  # a space in front of what follows, or part of what a character became
        if self._explain(first, stop) or (added and stop - first > 1 and self._explain(first + 1, stop)):
            return
        if not (added and stop - first == 1) and not self._drops_marks(first, stop):
            wide = stop
            for _ in range(_MOST_JOINED):
                if wide == len(self._chars) or (wide := self._stop(wide + 1)) - first > _MOST_MARKS:
                    break
                if self._explain(first, wide):
                    self.done = wide
                    return
        self._tell_inner(first, stop)

    def _belongs(self, k: int) -> bool:
        return bool(unicodedata.combining(self._chars[k])) or self._starts[k] == self._starts[k - 1]

    def _stop(self, k: int) -> int:
        while k < len(self._chars) and self._belongs(k):
            k += 1
        return k

    def _too_long(self, first: int, stop: int) -> bool:
        if stop - first <= _MOST_MARKS:
            return False
        self.tangled[first + 1 : stop] = [True] * (stop - first - 1)
        return True

    def _explain(self, first: int, stop: int) -> bool:
        """Whether some stretch of the original makes the characters `first` to `stop`; if so, it is noted."""
        begin, made, reported = self._starts[first], self._chars[first:stop], self._reported[stop - 1]
        limit = self._starts[stop] if stop < len(self._chars) else len(self._text)
        later = range(reported, max(reported, min(limit, reported + _MOST_COMPOSED)) + 1)
        earlier = range(reported - 1, max(begin, reported - _MOST_COMPOSED), -1)
        for end in (*later, *earlier):
            if _alike(self._text[begin:end], made):
                self._tell_inner(first, stop)
                self.ends[stop - 1] = end
                return True
        return False

    def _tell_inner(self, first: int, stop: int) -> None:
        """A place within a cluster is told where what stands before it is made of what stands before it there."""
        for at in range(first + 1, stop):
            if _alike(self._text[self._starts[first] : self._starts[at]], self._chars[first:at]):
                self.ends[at - 1] = self._starts[at]
            else:
                self.tangled[at] = True

    def _drops_marks(self, first: int, stop: int) -> bool:
        """Whether the characters are those of the original without its marks."""
        own = _folded(self._text[self._starts[first] : self._reported[stop - 1]])
        bare = (c for c in unicodedata.normalize("NFD", own) if unicodedata.category(c) != "Mn")
        return "".join(bare) == _folded(self._chars[first:stop])


def _alike(original: str, normalised: str) -> bool:
    return _folded(original) == _folded(normalised)


@lru_cache(maxsize=8192)
def _folded(text: str) -> str:
    """`text` under every normalisation that composes, without the characters that show nothing."""
    text = unicodedata.normalize("NFKC", text.replace(SPACE_MARK, " "))
    if not text.isprintable():
        text = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf"))
    return unicodedata.normalize("NFKC", text.lower())
