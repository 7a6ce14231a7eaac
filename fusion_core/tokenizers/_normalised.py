"""A text as a tokenizer's normalisation reads it, and which characters of the original it was made of.

The libraries that run tokenizers name only the first of the characters that a composed one came from (é from e and a
combining accent), and for combining marks that were put in canonical order the places of other marks. Both are set
right here by normalising the original again, cluster by cluster (Unicode Standard Annex 15).
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion_core.tokenizers._pieces import SPACE_MARK

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# No composed character is made of more than four (a Greek vowel with three marks).
_MOST_COMPOSED = 8
# Writing has no more marks on one character (Annex 15, stream-safe text); in what has, no place is told.
_MOST_MARKS = 30


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
    tangled = np.zeros(len(chars) + 1, dtype=np.bool_)
    following = [*starts[1:], len(text)]
    done = 0
    for k in np.flatnonzero(~kept).tolist():
        if k < done:
            continue
        first = k
        while first > 0 and unicodedata.combining(chars[first]):
            first -= 1
        done = k + 1
        while done < len(chars) and unicodedata.combining(chars[done]):
            done += 1
        if done - first > _MOST_MARKS:
            tangled[first + 1 : done] = True
            continue
        # Within a cluster: what stands before the place is told by what stands before it in the original, or it isn't.
        for at in range(first + 1, done):
            if _alike(text[starts[first] : starts[at]], chars[first:at]):
                ends[at - 1] = starts[at]
            else:
                tangled[at] = True
        farthest = min(following[done - 1], ends[done - 1] + _MOST_COMPOSED)
        for end in range(ends[done - 1], farthest + 1):
            if _alike(text[starts[first] : end], chars[first:done]):
                ends[done - 1] = end
                break
    return Reading(normalised, np.asarray(ends, dtype=np.int64), kept, tangled)


def _alike(original: str, normalised: str) -> bool:
    return _folded(original) == _folded(normalised)


def _folded(text: str) -> str:
    """`text` under every normalisation that composes."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
