"""An encoded text: ids with the bytes of the original text that each of them covers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusion_core.text import grapheme_boundaries, utf8

if TYPE_CHECKING:
    import pandas as pd

    from fusion_core.tokenizers._tokenizer import Tokenizer


@dataclass(frozen=True)
class Encoding:
    """The tokens of one text.

    Attributes:
        tokenizer: the tokenizer that made it.
        text: the original text, as given.
        ids: int32[n].
        starts, ends: int64[n], byte offsets of each token in the UTF-8 text. Both ascend, spans do not overlap.
            `ends[i]` is how far the text has been read in full once token i is known.
        exact: bool[n], False where the tokenizer's normalisation made one character into several tokens, so that no
            byte range is the token's own. The last token of such a run owns the character, those before it are empty.
        closed: bool[n], True where the text up to `ends[i]` has been read and nothing beyond it: only such positions
            can be shared boundaries.
    """

    tokenizer: Tokenizer
    text: str
    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    exact: NDArray[np.bool_]
    closed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def data(self) -> bytes:
        """The UTF-8 bytes of the text."""
        return utf8(self.text)

    @cached_property
    def added_spaces(self) -> int:
        """How many spaces the tokenizer has put in front of the text: they are in its first tokens' canonical bytes."""
        own, canonical = 0, self.tokenizer.vocabulary.canonical
        for token in self.ids:
            own += len(canonical[token]) - len(canonical[token].lstrip(b" "))
            if canonical[token].strip(b" "):
                break
        return max(0, own - (len(self.data) - len(self.data.lstrip(b" "))))

    @cached_property
    def pieces(self) -> list[str]:
        """str[n]: each token as its tokenizer stores it."""
        pieces = self.tokenizer.vocabulary.pieces
        return [pieces[i] for i in self.ids.tolist()]

    @cached_property
    def canonical(self) -> list[bytes]:
        """bytes[n]: each token's canonical bytes."""
        canonical = self.tokenizer.vocabulary.canonical
        return [canonical[i] for i in self.ids.tolist()]

    @cached_property
    def splits_character(self) -> NDArray[np.bool_]:
        """bool[n]: the token starts or ends inside what a reader sees as one character (UAX #29)."""
        whole = grapheme_boundaries(self.text)
        return np.asarray(~np.isin(self.starts, whole) | ~np.isin(self.ends, whole) | ~self.closed)

    def to_frame(self) -> pd.DataFrame:
        """One row per token: id, piece, canonical bytes, span, and whether the span is exact."""
        import pandas as pd

        return pd.DataFrame(
            {
                "id": self.ids,
                "piece": self.pieces,
                "bytes": self.canonical,
                "start": self.starts,
                "end": self.ends,
                "exact": self.exact,
            }
        )
