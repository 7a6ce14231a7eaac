"""`boundary`: through a vocabulary mapping at every shared boundary. `fusellm`: the published rule's choice of
positions and entries, on true probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fusion_core.alignment import align
from fusion_core.mapping import VocabularyMapping
from fusion_core.tokenizers import Encoding
from fusion_core.transfer import _kernel
from fusion_core.transfer._places import find_places
from fusion_core.transfer._predictions import Predictions
from fusion_core.transfer._result import Transfer


def boundary(source: Predictions, target: Encoding, mapping: VocabularyMapping) -> Transfer:
    """At every shared boundary, whatever the tokens on the way were; probabilities that share a target add up.

    Mass through identical entries (and the first tokens of `first-token`) is booked as exact, the rest as approximate.
    """
    mapping.check_tokenizers(source.encoding.tokenizer, target.tokenizer)
    places = find_places(source, target)
    return _carry("boundary", source, np.where(places.shared, places.row, -1), mapping, first_wins=False)


def fusellm(source: Predictions, target: Encoding, mapping: VocabularyMapping) -> Transfer:
    """FuseLLM's rule (arXiv 2401.10491): where `dtw` on raw pieces links a target token to one source token that equals
    it, or (but for `hard`) maps to it. Of entries that share a target the first wins, the others are lost.

    The published code then renormalises what was kept, and puts a one-hot on the current token elsewhere:
    `fusion_core.compat.fusellm` does that; here probabilities stay true, and such positions count as not covered.
    """
    mapping.check_tokenizers(source.encoding.tokenizer, target.tokenizer)
    if not len(source.encoding) or not len(target):  # nothing to warp along: a text that one side drops
        rows = np.full(max(0, len(target) - 1), -1, dtype=np.int64)
        return _carry(f"fusellm-{mapping.kind}", source, rows, mapping, first_wins=True)
    alignment = align(source.encoding, target, method="dtw", compare="pieces")
    edges = alignment.edges
    count = len(target)
    linked = np.full(count, -1, dtype=np.int64)
    if len(edges):
        linked[edges[:, 1]] = edges[:, 0]
        linked[np.bincount(edges[:, 1], minlength=count) != 1] = -1
    marker = source.encoding.tokenizer.space_marker, target.tokenizer.space_marker
    ours, theirs = source.encoding.pieces, target.pieces
    for i, j in enumerate(linked.tolist()):
        piece = ours[j].replace(*marker)
        # As published: for sources that mark spaces with Ġ, at the first position a missing marker is put in front.
        if i == 0 and marker[0] == "Ġ" and theirs[i].startswith(marker[1]) and not piece.startswith(marker[1]):
            piece = marker[1] + piece
        if j >= 0 and piece != theirs[i]:
            mapped = mapping.kind != "hard" and mapping.best[source.encoding.ids[j]] == target.ids[i]
            if not mapped:
                linked[i] = -1
    rows = np.where(linked >= 0, linked + 1, -1)[:-1]
    return _carry(f"fusellm-{mapping.kind}", source, rows, mapping, first_wins=True)


def _carry(
    name: str, source: Predictions, rows: NDArray[np.int64], mapping: VocabularyMapping, *, first_wins: bool
) -> Transfer:
    top = source.top
    exact = (mapping.distance == 0) | (mapping.kind == "first-token")
    ids = np.zeros((1, 1), np.int32) if top.ids is None else top.ids
    indptr, out_ids, masses, ledger = _kernel.carry(
        rows, ids, top.probs, top.tail, top.ids is None, mapping.indptr, mapping.target_ids, mapping.weights, exact,
        mapping.target_size, first_wins,
    )  # fmt: skip
    # Where all that was kept is lost, nothing is carried over either.
    return Transfer(name, indptr, out_ids, masses, ledger, np.diff(indptr) > 0, mapping.target_size)
