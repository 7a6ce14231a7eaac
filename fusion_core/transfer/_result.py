"""What a transfer gives: sparse target distributions and, for every position, where the probability went."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusion_core.distributions import TopK
from fusion_core.errors import TransferError
from fusion_core.transfer import _kernel as kernel

if TYPE_CHECKING:
    import pandas as pd

LEDGER = ("exact", "chained", "approximate", "tail", "lost")


@dataclass(frozen=True)
class Transfer:
    """A source's distributions at a target's positions, in target ids.

    Attributes:
        method: the registered name.
        indptr: int64[m + 1]; position i owns `ids[indptr[i]:indptr[i + 1]]`, each id once.
        ids: int32; probs: float32, true probabilities: with the tail and what was lost they sum to 1.
        ledger: float64[m, 5], the mass of each position by the kinds of `LEDGER`; rows sum to 1. `exact`: follows from
            the source's distribution alone. `chained`: resolved by its next distributions. `approximate`: mapped or
            shared out by a rule. `tail`: not among the source's kept entries. `lost`: has nowhere to go.
        covered: bool[m], positions with a transfer; the others are masked out or fall back.
        size: of the target's vocabulary.
    """

    method: str
    indptr: NDArray[np.int64]
    ids: NDArray[np.int32]
    probs: NDArray[np.float32]
    ledger: NDArray[np.float64]
    covered: NDArray[np.bool_]
    size: int

    def __len__(self) -> int:
        return len(self.covered)

    def at(self, position: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Ids and probabilities of one position, the most probable first, ties to the lowest id."""
        if not 0 <= position < len(self):
            raise TransferError(f"positions go from 0 to {len(self) - 1}, got {position}")
        part = slice(self.indptr[position], self.indptr[position + 1])
        order = np.lexsort((self.ids[part], -self.probs[part]))
        return self.ids[part][order], self.probs[part][order]

    @cached_property
    def coverage(self) -> float:
        """Share of positions with a transfer; 1 where there are no positions."""
        return float(self.covered.mean()) if len(self) else 1.0

    @cached_property
    def rest(self) -> NDArray[np.float64]:
        """float64[m]: tail and lost mass, all of an uncovered position."""
        return np.where(self.covered, self.ledger[:, 3] + self.ledger[:, 4], 1.0)

    @cached_property
    def tail_share(self) -> NDArray[np.float64]:
        """float64[m]: what each entry that is not kept has of the tail: an even share, as in the source's own
        predictions."""
        others = self.size - np.where(self.covered, np.diff(self.indptr), self.size)
        return np.where(others > 0, self.ledger[:, 3] / np.maximum(others, 1), 0.0)

    @cached_property
    def lost_share(self) -> NDArray[np.float64]:
        """float64[m]: what every entry of the target's vocabulary, kept or not, has of all other mass without an entry:
        what was lost, and all of an uncovered position."""
        full = np.diff(self.indptr) == self.size
        return np.where(self.covered, self.ledger[:, 4] + full * self.ledger[:, 3], 1.0) / self.size

    def prob_of(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """float64[m]: the probability of one id per position, tail and lost mass spread evenly."""
        owner = np.repeat(np.arange(len(self)), np.diff(self.indptr))
        hit = (self.ids == np.asarray(ids)[owner]) & self.covered[owner]
        found = self.tail_share.copy()
        found[owner[hit]] = self.probs[hit]
        return np.asarray(found + self.lost_share)

    def best(self) -> NDArray[np.int64]:
        """int64[m]: the most probable id, the lowest of several; -1 where there is none."""
        owner = np.repeat(np.arange(len(self)), np.diff(self.indptr))
        order = np.lexsort((self.ids, -self.probs, owner))
        filled = np.diff(self.indptr) > 0
        best = np.full(len(self), -1, dtype=np.int64)
        best[filled] = self.ids[order][self.indptr[:-1][filled]]
        return np.where(self.covered, best, -1)

    def best_first(
        self, k: int, least: float = 0.0
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        """Counts int64[m], ids and probabilities of at most k entries above `least` of each covered position, the most
        probable first, ties to the lowest id."""
        counts, ids, probs = kernel.best_first(self.indptr, self.ids, self.probs, k, np.float32(least))
        if not self.covered.all():
            shown = np.repeat(self.covered, counts)
            counts, ids, probs = np.where(self.covered, counts, 0), ids[shown], probs[shown]
        return counts, ids, probs

    def to_dense(self, position: int) -> NDArray[np.float64]:
        """float64[size]: one position's probabilities, tail and lost mass spread evenly; one position at a time."""
        ids, probs = self.at(position)
        dense = np.full(self.size, self.tail_share[position])
        if self.covered[position]:
            dense[ids] = probs
        return np.asarray(dense + self.lost_share[position])

    def to_frame(self) -> pd.DataFrame:
        """One row per position: covered or not, the most probable id and its probability, and the ledger."""
        import pandas as pd

        best = self.best()
        frame = pd.DataFrame(self.ledger, columns=list(LEDGER))
        frame.insert(0, "position", np.arange(len(self)))
        frame.insert(1, "covered", self.covered)
        frame.insert(2, "best", best)
        return frame


def uncovered(method: str, count: int, size: int) -> Transfer:
    """A transfer of nothing."""
    ledger = np.zeros((count, 5))
    ledger[:, 4] = 1.0
    nothing = np.zeros(count, dtype=np.bool_)
    return Transfer(
        method, np.zeros(count + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), ledger, nothing, size
    )


def unchanged(method: str, top: TopK, size: int, least: float) -> Transfer:
    """The source's own distributions, where the target's tokens are the source's; entries below `least` go to the
    tail."""
    kept = [np.flatnonzero(row >= least) for row in top.probs]
    ids = [cols if top.ids is None else top.ids[n, cols] for n, cols in enumerate(kept)]
    probs = [top.probs[n, cols] for n, cols in enumerate(kept)]
    ledger = np.zeros((len(top), 5))
    ledger[:, 0] = [min(1.0, float(row.sum(dtype=np.float64))) for row in probs]
    ledger[:, 3] = 1.0 - ledger[:, 0]
    indptr = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    nothing = np.zeros(0)
    return Transfer(
        method,
        indptr,
        np.concatenate([*ids, nothing], dtype=np.int32, casting="unsafe"),
        np.concatenate([*probs, nothing], dtype=np.float32, casting="unsafe"),
        ledger,
        np.diff(indptr) > 0,
        size,
    )
