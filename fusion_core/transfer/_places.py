"""Which source distribution a target position may use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion_core.errors import TransferError
from fusion_core.tokenizers import Encoding
from fusion_core.transfer._predictions import Predictions


@dataclass(frozen=True)
class Places:
    """For each target position 0 to m - 2 (after token i, predicting token i + 1):

    Attributes:
        row: int64, the row of the source's predictions that has read the text up to `pending` and not beyond; -1 where
            there is none.
        pending, ends: int64, bytes of `text`; between them lies what the target has read and the source has not. Equal
            at a shared boundary.
        cuts: bool, a target token begins at `pending`.
        text: the text as the source reads it, behind the spaces that its tokenizer adds: its first token spells them
            too, so that row 0 stands before them and every other row behind.
        same: the target's tokens are the source's: every position is at a shared boundary, inside a character too.
    """

    row: NDArray[np.int64]
    pending: NDArray[np.int64]
    ends: NDArray[np.int64]
    cuts: NDArray[np.bool_]
    text: bytes
    same: bool

    @property
    def shared(self) -> NDArray[np.bool_]:
        """bool: the position is at a shared boundary."""
        return np.asarray((self.row >= 0) & (self.pending == self.ends))


def find_places(source: Predictions, target: Encoding) -> Places:
    """The last source row at or before each target position; raises `TransferError` for two different texts."""
    if source.encoding.text != target.text:
        raise TransferError("the source's predictions and the target's tokens are of different texts")
    ends = target.ends[:-1]
    added = source.encoding.added_spaces
    text = b" " * added + target.data
    alike = source.encoding.tokenizer.fingerprint == target.tokenizer.fingerprint
    if alike and np.array_equal(source.encoding.ids, target.ids):
        read = (ends + added).astype(np.int64)
        return Places(np.arange(1, len(ends) + 1), read, read, np.ones(len(ends), np.bool_), text, same=True)
    closed = target.closed[:-1]
    usable = np.flatnonzero(source.encoding.closed)
    at = np.searchsorted(source.encoding.ends[usable], ends, side="right") - 1
    token = np.where(at >= 0, usable[np.maximum(at, 0)], -1) if len(usable) else np.full(len(ends), -1)
    pending = (
        np.where(token >= 0, source.encoding.ends[np.maximum(token, 0)], 0) if len(usable) else np.zeros_like(ends)
    )
    row = token + 1
    row = np.where(closed & ((token >= 0) | source.has_start), row, -1)
    return Places(
        row.astype(np.int64),
        np.where(token >= 0, pending + added, 0).astype(np.int64),
        (ends + added).astype(np.int64),
        np.where(token >= 0, np.isin(pending, target.starts), target.added_spaces == added),
        text,
        same=False,
    )
