"""A model's predictions on a text: what a transfer starts from, however they were made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fusion_core.distributions import TopK
from fusion_core.errors import TransferError
from fusion_core.tokenizers import Encoding


@dataclass(frozen=True)
class Predictions:
    """Next-token distributions of one model on one text of n tokens.

    Attributes:
        encoding: the text in the model's own tokens.
        top: n + 1 distributions: row 0 predicts the first token, row j + 1 the one after token j.
        has_start: whether row 0 means anything: a model without a beginning-of-text token predicts no first token.
        model: its name.
    """

    encoding: Encoding
    top: TopK
    has_start: bool
    model: str = ""

    def __post_init__(self) -> None:
        if len(self.top) != len(self.encoding) + 1:
            raise TransferError(f"{len(self.encoding)} tokens need {len(self.encoding) + 1} rows, got {len(self.top)}")

    @cached_property
    def nll(self) -> NDArray[np.float64]:
        """float64[n - 1]: nats of tokens 1 to n - 1, those not kept counting as an even share of the tail."""
        top = self.top.rows(slice(1, -1))
        gold = top.logprob_of(self.encoding.ids[1:])
        rest = max(1, top.width - top.k)
        with np.errstate(divide="ignore"):
            return np.asarray(-np.where(np.isfinite(gold), gold, np.log(np.maximum(top.tail, 1e-12) / rest)))

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of the text after its first token: how well the model predicts it, whatever its tokens."""
        size = len(self.encoding.data) - int(self.encoding.ends[0]) if len(self.encoding) else 0
        return float(self.nll.sum() / np.log(2) / size) if size > 0 else float("nan")

    def truncate(self, k: int) -> Predictions:
        """The same with the k best entries of each row; 0 keeps all."""
        return Predictions(self.encoding, self.top.truncate(k), self.has_start, self.model)
