"""A vocabulary mapping: for each source id zero or more target ids with weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusion_core.errors import MappingError
from fusion_core.text import show_bytes
from fusion_core.tokenizers import Tokenizer

if TYPE_CHECKING:
    import pandas as pd

OUTCOMES = ("exact", "distance 1", "distance 2", "distance 3+", "linked", "not mapped")


@dataclass(frozen=True)
class Provenance:
    """Where a mapping came from.

    Attributes:
        kind, form: the kind's registered name, and `bytes` or `pieces`.
        source, target: names of the tokenizers, for people.
        source_fingerprint, target_fingerprint: what the mapping is checked against.
        corpus: SHA-256 of the texts that it was learned from, "" if none.
        version: of this project.
    """

    kind: str
    form: str
    source: str
    target: str
    source_fingerprint: str
    target_fingerprint: str
    corpus: str
    version: str


@dataclass(frozen=True)
class VocabularyMapping:
    """A sparse matrix from source ids (rows) to target ids (columns); rows sum to at most 1.

    Attributes:
        provenance: which tokenizers, which kind.
        indptr: int64[n + 1], row `i` is `target_ids[indptr[i]:indptr[i + 1]]`, heaviest first.
        target_ids: int32[nonzeros].
        weights: float32[nonzeros].
        distance: int32[n], edit distance in characters to the (heaviest) target, -1 where there is none.
        ties: int32[n], how many target entries were as near; 0 where no search was made.
        target_size: columns of the matrix.
    """

    provenance: Provenance
    indptr: NDArray[np.int64]
    target_ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    distance: NDArray[np.int32]
    ties: NDArray[np.int32]
    target_size: int

    @property
    def kind(self) -> str:
        """The registered name of the kind, such as `soft`."""
        return self.provenance.kind

    @property
    def source_size(self) -> int:
        """Rows of the matrix."""
        return len(self.indptr) - 1

    @cached_property
    def best(self) -> NDArray[np.int32]:
        """int32[n]: the heaviest target of each source id, -1 for none."""
        best = np.full(self.source_size, -1, dtype=np.int32)
        mapped = np.diff(self.indptr) > 0
        best[mapped] = self.target_ids[self.indptr[:-1][mapped]]
        return best

    @cached_property
    def row_mass(self) -> NDArray[np.float64]:
        """float64[n]: what the weights of each row sum to."""
        sums = np.concatenate(([0.0], np.cumsum(self.weights, dtype=np.float64)))
        return np.asarray(sums[self.indptr[1:]] - sums[self.indptr[:-1]])

    def _check(self, ids: NDArray[np.integer[Any]] | list[int]) -> NDArray[np.int64]:
        checked = np.asarray(ids, dtype=np.int64)
        if len(checked) and not (checked.min() >= 0 and checked.max() < self.source_size):
            raise MappingError(
                f"source ids go from 0 to {self.source_size - 1}; got {checked.min()} to {checked.max()}"
            )
        return checked

    def lost_mass(self, ids: NDArray[np.integer[Any]] | list[int]) -> NDArray[np.float64]:
        """float64[len(ids)]: the share of each source id's probability that has nowhere to go."""
        return np.clip(1.0 - self.row_mass[self._check(ids)], 0.0, 1.0)

    def targets(self, source_id: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Target ids and weights of one source id, heaviest first."""
        (row,) = self._check([source_id])
        part = slice(self.indptr[row], self.indptr[row + 1])
        return self.target_ids[part], self.weights[part]

    @cached_property
    def collisions(self) -> NDArray[np.int32]:
        """int32[target_size]: how many source ids have each target id as their heaviest."""
        return np.bincount(self.best[self.best >= 0], minlength=self.target_size).astype(np.int32)

    @cached_property
    def outcome(self) -> NDArray[np.int8]:
        """int8[n]: how each source id fares, an index into `OUTCOMES`."""
        found = self.best >= 0
        near = np.where(self.distance < 0, 4, np.minimum(self.distance, 3))
        return np.where(found, near, 5).astype(np.int8)

    def check_tokenizers(self, source: Tokenizer, target: Tokenizer) -> None:
        """Raise `MappingError` unless the mapping was made for these two tokenizers."""
        made_for = (self.provenance.source_fingerprint, self.provenance.target_fingerprint)
        for side, tokenizer, made, name in (
            ("source", source, made_for[0], self.provenance.source),
            ("target", target, made_for[1], self.provenance.target),
        ):
            if tokenizer.fingerprint != made:
                raise MappingError(
                    f"this mapping was made for the {side} tokenizer {name!r} ({made[:12]}), "
                    f"not for {tokenizer.name!r} ({tokenizer.fingerprint[:12]}); compute it again with map_vocabulary"
                )

    def to_frame(self, source: Tokenizer, target: Tokenizer) -> pd.DataFrame:
        """One row per source id that exists: entry, heaviest target, distance, ties, weights, lost mass, collisions."""
        import pandas as pd

        self.check_tokenizers(source, target)
        ids = np.flatnonzero(source.vocabulary.kinds != 3)
        best = self.best[ids]
        found = best >= 0
        pieces = target.vocabulary.pieces
        shown = [show_bytes(data) for data in target.vocabulary.canonical]
        return pd.DataFrame(
            {
                "id": ids,
                "piece": [source.vocabulary.pieces[i] for i in ids.tolist()],
                "text": [show_bytes(source.vocabulary.canonical[i]) for i in ids.tolist()],
                "target_id": best,
                "target_piece": [pieces[j] if j >= 0 else "" for j in best.tolist()],
                "target_text": [shown[j] if j >= 0 else "" for j in best.tolist()],
                "outcome": pd.Categorical([OUTCOMES[k] for k in self.outcome[ids].tolist()], categories=list(OUTCOMES)),
                "distance": self.distance[ids],
                "ties": self.ties[ids],
                "targets": np.diff(self.indptr)[ids],
                "lost": self.lost_mass(ids),
                "collisions": np.where(found, self.collisions[best], 0),
            }
        )


def from_best(
    provenance: Provenance,
    best: NDArray[np.int32],
    distance: NDArray[np.int32],
    ties: NDArray[np.int32],
    target_size: int,
) -> VocabularyMapping:
    """A mapping that sends each id to one target with weight 1, or nowhere (-1)."""
    found = best >= 0
    indptr = np.concatenate(([0], np.cumsum(found))).astype(np.int64)
    weights = np.ones(int(found.sum()), dtype=np.float32)
    return VocabularyMapping(
        provenance, indptr, best[found].astype(np.int32), weights, np.where(found, distance, -1).astype(np.int32),
        ties.astype(np.int32), target_size,
    )  # fmt: skip
