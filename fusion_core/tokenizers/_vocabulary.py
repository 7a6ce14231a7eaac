"""A vocabulary: for each id the piece, its canonical bytes, and what kind of entry it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusion_core.errors import TokenizerError
from fusion_core.text import show_bytes

if TYPE_CHECKING:
    import pandas as pd

# More ids than any vocabulary has: beyond, a file is damaged.
MOST_IDS = 1 << 22
ROLES = ("bos", "eos", "pad", "unk")


class EntryKind(IntEnum):
    """What an id stands for."""

    NORMAL = 0  # contributes its canonical bytes to the text
    SPECIAL = 1  # a control token: contributes nothing
    BYTE = 2  # a byte-fallback piece: contributes one byte
    UNUSED = 3  # a gap in the ids, or a row that only pads the vocabulary


@dataclass(frozen=True)
class Vocabulary:
    """All ids from 0 to the highest one, gaps included.

    Attributes:
        pieces: str[size], each entry as the tokenizer stores it ("" for a gap).
        buffer: uint8[total], the canonical bytes of all entries, one after the other.
        offsets: int64[size + 1], entry `i` owns `buffer[offsets[i]:offsets[i + 1]]`.
        kinds: uint8[size], an `EntryKind` each.
        roles: `bos`, `eos`, `pad`, `unk` -> id, for those that the tokenizer has.
    """

    pieces: tuple[str, ...]
    buffer: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    roles: Mapping[str, int]

    @classmethod
    def build(
        cls,
        pieces: Sequence[str],
        canonical: Sequence[bytes],
        kinds: Sequence[int] | NDArray[np.uint8],
        roles: Mapping[str, int],
    ) -> Vocabulary:
        """A vocabulary from one piece, one byte string and one kind per id."""
        offsets = np.zeros(len(canonical) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, canonical), dtype=np.int64, count=len(canonical)), out=offsets[1:])
        buffer = np.frombuffer(b"".join(canonical), dtype=np.uint8)
        valid = {role: int(i) for role, i in roles.items() if role in ROLES and 0 <= i < len(pieces)}
        return cls(tuple(pieces), buffer, offsets, np.asarray(kinds, dtype=np.uint8), valid)

    @property
    def size(self) -> int:
        """Highest id + 1; the rows that a mapping over this vocabulary has."""
        return len(self.pieces)

    @property
    def count(self) -> int:
        """Entries that exist: `size` less the gaps and padding rows."""
        return int(np.count_nonzero(self.kinds != EntryKind.UNUSED))

    @property
    def spells(self) -> NDArray[np.bool_]:
        """bool[size]: the entry contributes bytes to a text."""
        normal = (self.kinds == EntryKind.NORMAL) | (self.kinds == EntryKind.BYTE)
        return np.asarray(normal & (np.diff(self.offsets) > 0))

    @property
    def special(self) -> NDArray[np.bool_]:
        """bool[size]: the entry is a special token."""
        return np.asarray(self.kinds == EntryKind.SPECIAL)

    def check(self, token_id: int) -> int:
        """`token_id` as it is, or `TokenizerError` if no such row exists."""
        if not 0 <= token_id < self.size:
            raise TokenizerError(f"id {token_id} is outside this vocabulary, whose ids go from 0 to {self.size - 1}")
        return int(token_id)

    def bytes_of(self, token_id: int) -> bytes:
        """Canonical bytes of one entry."""
        i = self.check(token_id)
        return bytes(self._blob[self.offsets[i] : self.offsets[i + 1]])

    def shown(self, token_id: int) -> str:
        """One entry for a person: what it spells, spaces and line ends made visible; as it is stored where it spells
        nothing, or is a byte-fallback piece, which spells what another entry does."""
        data = self.bytes_of(token_id)
        plain = not data or self.kinds[token_id] == EntryKind.BYTE
        return self.pieces[token_id] if plain else show_bytes(data, invisible=True)

    def join(self, ids: NDArray[np.int32]) -> bytes:
        """Canonical bytes of a sequence of ids, one after the other."""
        blob, bounds = self._blob, self._bounds
        return b"".join([blob[bounds[i] : bounds[i + 1]] for i in ids.tolist()])

    def lengths(self, ids: NDArray[np.int32]) -> NDArray[np.int64]:
        """int64[n]: how many bytes each id contributes."""
        lengths: NDArray[np.int64] = np.diff(self.offsets)[ids]
        return lengths

    @cached_property
    def _blob(self) -> bytes:
        return self.buffer.tobytes()

    @cached_property
    def _bounds(self) -> list[int]:
        bounds: list[int] = self.offsets.tolist()
        return bounds

    @cached_property
    def canonical(self) -> tuple[bytes, ...]:
        """bytes[size]: the canonical bytes of every entry."""
        blob, bounds = self._blob, self._bounds
        return tuple(blob[a:b] for a, b in pairwise(bounds))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """str[size]: canonical bytes as text; bytes that are no UTF-8 become lone surrogates U+DC80..U+DCFF."""
        return tuple(data.decode("utf-8", "surrogateescape") for data in self.canonical)

    @cached_property
    def by_bytes(self) -> dict[bytes, int]:
        """Canonical bytes -> the lowest id that spells them; special tokens and gaps are not in it."""
        spells = self.spells
        return {self.canonical[i]: i for i in range(self.size - 1, -1, -1) if spells[i]}

    @cached_property
    def by_piece(self) -> dict[str, int]:
        """Piece -> the lowest id that is stored so; gaps are not in it."""
        unused = self.kinds == EntryKind.UNUSED
        return {self.pieces[i]: i for i in range(self.size - 1, -1, -1) if not unused[i]}

    def to_frame(self) -> pd.DataFrame:
        """One row per id: id, piece, canonical bytes, kind."""
        import pandas as pd

        names = [EntryKind(k).name.lower() for k in self.kinds]
        return pd.DataFrame({"id": np.arange(self.size), "piece": self.pieces, "bytes": self.canonical, "kind": names})
