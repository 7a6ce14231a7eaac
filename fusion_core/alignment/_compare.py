"""Where two alignments of the same encodings disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusion_core.alignment._alignment import Alignment
from fusion_core.errors import AlignmentError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Difference:
    """Edges that one alignment has and the other has not.

    Attributes:
        first, second: the two alignments.
        only_first, only_second: int32[e, 2], the edges of each that the other lacks.
    """

    first: Alignment
    second: Alignment
    only_first: NDArray[np.int32]
    only_second: NDArray[np.int32]

    @property
    def agreement(self) -> float:
        """Shared edges as a share of all edges of both (Jaccard); 1 where there are none."""
        shared = len(self.first.edges) - len(self.only_first)
        total = shared + len(self.only_first) + len(self.only_second)
        return shared / total if total else 1.0

    def to_frame(self) -> pd.DataFrame:
        """One row per edge in dispute, in text order: which method has it, and both tokens."""
        import pandas as pd

        rows = []
        for alignment, edges in ((self.first, self.only_first), (self.second, self.only_second)):
            for i, j in edges.tolist():
                rows.append(
                    {
                        "only in": alignment.method,
                        "source_index": i,
                        "source_piece": alignment.source.pieces[i],
                        "target_index": j,
                        "target_piece": alignment.target.pieces[j],
                        "start": int(alignment.target.starts[j]),
                    }
                )
        frame = pd.DataFrame(
            rows, columns=["only in", "source_index", "source_piece", "target_index", "target_piece", "start"]
        )
        return frame.sort_values(["target_index", "source_index"], kind="stable", ignore_index=True)


def difference(first: Alignment, second: Alignment) -> Difference:
    """What `first` and `second` disagree on; raises `AlignmentError` if they are not of the same encodings."""
    for a, b in ((first.source, second.source), (first.target, second.target)):
        if not np.array_equal(a.ids, b.ids) or a.text != b.text:
            raise AlignmentError("only alignments of the same two encodings can be compared")
    width = max(len(first.target), 1)
    ours, theirs = (edges[:, 0].astype(np.int64) * width + edges[:, 1] for edges in (first.edges, second.edges))
    return Difference(first, second, first.edges[~np.isin(ours, theirs)], second.edges[~np.isin(theirs, ours)])
