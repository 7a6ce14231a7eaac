"""What a transfer gives: sparse target distributions and, for every position, where the probability went."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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

    def prob_of(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """float64[m]: the probability of one id per position, the rest spread evenly over the target's vocabulary."""
        owner = np.repeat(np.arange(len(self)), np.diff(self.indptr))
        hit = (self.ids == np.asarray(ids)[owner]) & self.covered[owner]
        mass = np.bincount(owner[hit], weights=self.probs[hit], minlength=len(self))
        return np.asarray(mass + self.rest / self.size)

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
        """float64[size]: one position's probabilities with the rest spread evenly; meant for one position at a time."""
        ids, probs = self.at(position)
        dense = np.full(self.size, self.rest[position] / self.size)
        if self.covered[position]:
            dense[ids] += probs
        return dense

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
