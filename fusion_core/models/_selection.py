"""Which entries of a distribution to keep when its text is known: those that a transfer along it will ask for.

A transfer conditions the source on the bytes that the target has read already, so that an entry which is unlikely by
itself may be the likeliest of those that begin so. The k most probable entries seldom hold it where the source's tokens
are long and the target's are short.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion_core.distributions import TopK
from fusion_core.models._agreeing import Found, agreeing, agreeing_on_device
from fusion_core.tokenizers import Encoding, Tokenizer
from fusion_core.transfer._index import sort_entries
from fusion_core.transfer._sorted_kernel import prefix_ranges

# Bytes of the text that are looked at.
_DEPTH = 12


def most_probable(k: int) -> int:
    """How many of k entries that are kept along a text are the most probable ones, whatever the text."""
    return (k + 1) // 2


class Selection:
    """Keeps, of each distribution on a text, the k entries that matter along it.

    An entry that agrees with the text's next d bytes and with no more counts by its share of all that agree with these:
    its probability for a model that has been told so much. The more probable half of k is there whatever the text, and
    so is the text's own next token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._entries = sort_entries(tokenizer, tokenizer.vocabulary.spells)
        self._size = tokenizer.size

    def keep(self, logits: Any, k: int, encoding: Encoding, first: int) -> TopK:
        """The chosen entries of `logits`, a torch tensor [n, V] of which row r predicts token `first + r` of the text.

        Raises:
            DistributionError: as `TopK.from_logits`.
        """
        import torch

        plain = TopK.from_logits(logits, k, size=self._size)
        if plain.ids is None or k < 2 or not len(plain):
            return plain
        values = logits.detach()
        best = torch.from_numpy(plain.ids[:, :1].astype(np.int64)).to(values.device)
        # What the softmax divides by, in float32, from an entry of which both are known.
        total = values.gather(1, best).float() - torch.from_numpy(plain.logprobs[:, :1]).to(values.device)
        owner, ids, logprobs, score = self._agreeing(values, total, plain, encoding, first)
        gold = encoding.ids[first : first + len(plain)].astype(np.int64)
        rows = np.flatnonzero(gold < min(self._size, values.shape[1]))
        places, at = (torch.from_numpy(index).to(values.device) for index in (rows, gold[rows]))
        own = (values[places, at].float() - total[places, 0]).cpu().numpy()
        likely = np.where(np.arange(k) < most_probable(k), np.inf, plain.logprobs)
        return _best_of_each(
            np.concatenate([np.repeat(np.arange(len(plain)), k), owner, rows]),
            np.concatenate([plain.ids.reshape(-1), ids, gold[rows]]),
            np.concatenate([plain.logprobs.reshape(-1), logprobs, own]),
            np.concatenate([likely.reshape(-1), score, np.full(len(rows), np.inf)]),
            plain,
        )

    def _agreeing(self, values: Any, total: Any, plain: TopK, encoding: Encoding, first: int) -> Found:
        """The entries that agree with the text, but for those without a chance: an entry needs a better score than the
        least of `plain`."""
        added = encoding.added_spaces  # which only the first token spells
        starts = encoding.starts[first : first + len(plain)].astype(np.int64) + added
        starts[: 1 if first == 0 else 0] = 0
        text = np.frombuffer(b" " * added + encoding.data, dtype=np.uint8)
        entries = self._entries
        ranges = prefix_ranges(entries.buffer, entries.offsets, text, starts, _DEPTH)
        least = plain.logprobs.min(axis=1)
        if values.device.type != "cpu":
            return agreeing_on_device(values, total, entries.ids, ranges, least)
        return agreeing(values.float().numpy(), total[:, 0].numpy(), entries.ids, ranges, least)


def _best_of_each(
    owner: NDArray[np.int64],
    ids: NDArray[np.int64],
    logprobs: NDArray[np.float32],
    score: NDArray[np.float32],
    plain: TopK,
) -> TopK:
    """The k entries of the highest score of each row, each id once, in the order of their probability."""
    n, k = len(plain), plain.k
    order = np.lexsort((ids, -score, owner))
    _, once = np.unique(owner[order] * plain.width + ids[order], return_index=True)
    order = order[np.sort(once)]
    begins = np.searchsorted(owner[order], np.arange(n))
    order = order[begins[:, None] + np.arange(k)]  # `plain` alone has k of each row
    by_probability = np.lexsort((ids[order], -logprobs[order]), axis=1)
    order = np.take_along_axis(order, by_probability, axis=1)
    return TopK(ids[order].astype(np.int32), logprobs[order].astype(np.float32), plain.width)
