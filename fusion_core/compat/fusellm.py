"""FuseLLM's `transform_step_logits` (arXiv 2401.10491) and PTA-LLM's variant with optimal transport (arXiv 2509.17276).

Their quirks are kept on purpose, each marked below as `Quirk`; `fusion_core.transfer` does the better thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.process import cdist

from fusion_core.alignment import dtw
from fusion_core.errors import MappingError, TransferError

KINDS = ("hard", "soft", "ot")

# PTA-LLM's constants: entries on each side of a transport, strength of the entropic term, and when to stop.
OT_ENTRIES = 10
OT_STRENGTH = 30.0
OT_TOLERANCE = 1e-5
_FLOOR = 1e-10

Rows = Sequence[Sequence[Any]] | NDArray[Any]


def transform_step_logits(
    source_pieces: Sequence[str],
    target_pieces: Sequence[str],
    topk_ids: Rows,
    topk_logits: Rows,
    *,
    source_vocab: Mapping[int, str],
    target_vocab: Mapping[str, int],
    source_marker: str,
    target_marker: str,
    kind: str,
    soft_mapping: Mapping[str, str] | None = None,
    target_topk_ids: Rows | None = None,
    target_topk_logits: Rows | None = None,
) -> tuple[list[list[int]], list[list[float]]]:
    """Each target position's ids and values, as the published code returns them.

    Args:
        source_pieces, target_pieces: the text's n and m tokens as each tokenizer stores them.
        topk_ids, topk_logits: n rows of source ids and logits.
        source_vocab: source id -> piece.
        target_vocab: target piece -> id.
        source_marker, target_marker: how each side writes a space (`Ġ`, `▁`).
        kind: `hard`, `soft` or `ot` (which builds on `soft`).
        soft_mapping: source piece with the marker swapped -> target piece; for `soft` and `ot`.
        target_topk_ids, target_topk_logits: m rows of the target's own; for `ot`.

    Returns:
        m lists of target ids, and m lists of values: logits, or transport masses for `ot`.

    Raises:
        TransferError: an unknown kind, an argument that the kind needs is missing, or lengths do not fit.
        MappingError: a piece is missing from a vocabulary or from the soft mapping.
        AlignmentError: one side has no tokens and the other has.
    """
    if kind not in KINDS:
        raise TransferError(f"unknown kind {kind!r}; choose one of {', '.join(KINDS)}")
    if kind != "hard" and soft_mapping is None:
        raise TransferError(f"kind {kind!r} needs soft_mapping")
    if kind == "ot" and (target_topk_ids is None or target_topk_logits is None):
        raise TransferError("kind 'ot' needs target_topk_ids and target_topk_logits")
    if not len(topk_ids) == len(topk_logits) == len(source_pieces):
        raise TransferError(
            f"{len(source_pieces)} source tokens need as many rows, "
            f"got {len(topk_ids)} of ids, {len(topk_logits)} of logits"
        )
    links = _single_links(source_pieces, target_pieces, source_marker, target_marker)
    used = _usable(links, source_pieces, target_pieces, source_marker, target_marker, kind, soft_mapping or {})
    rows = links[used]
    ids, logits = _rectangle(topk_ids, rows, np.int64, -1), _rectangle(topk_logits, rows, np.float64, 0.0)
    table = _target_of(ids, source_vocab, target_vocab, source_marker, target_marker, kind, soft_mapping or {})
    mapped = np.where(ids >= 0, table[ids], -1)
    # Quirk: of two source tokens that map to one target token the first wins; the other's probability is dropped.
    keep = _first_of_each(mapped, int(mapped.max(initial=0)) + 1)
    ends = np.cumsum(keep.sum(axis=1)).tolist()
    flat_ids, flat_logits = mapped[keep], logits[keep]
    out_ids: list[list[int]] = []
    out_values: list[list[float]] = []
    at = start = 0
    for i, piece in enumerate(target_pieces):
        if used[i]:
            out_ids.append(flat_ids[start : ends[at]].tolist())
            out_values.append(flat_logits[start : ends[at]].tolist())
            start, at = ends[at], at + 1
        else:
            # Quirk: where nothing is aligned, a one-hot on the *current* token, at logits that predict the next one.
            if piece not in target_vocab:
                raise MappingError(f"the target piece {piece!r} is not in target_vocab")
            out_ids.append([target_vocab[piece]])
            out_values.append([1.0])
    if kind == "ot":
        assert target_topk_ids is not None and target_topk_logits is not None  # noqa: S101  # checked above
        pieces = {i: piece for piece, i in target_vocab.items()}
        for i in np.flatnonzero(used).tolist():
            own, logit_row = list(target_topk_ids[i]), np.asarray(topk_logits[links[i]], dtype=np.float64)
            moved = _transport(
                out_ids[i], logit_row, own, np.asarray(target_topk_logits[i]), pieces, source_marker, target_marker
            )
            if moved is not None:
                out_ids[i], out_values[i] = moved
    return out_ids, out_values


def _single_links(
    source_pieces: Sequence[str], target_pieces: Sequence[str], source_marker: str, target_marker: str
) -> NDArray[np.int64]:
    """int64[m]: the one source token that a target token is linked to, -1 where it is linked to several.

    Quirk: one source token may be linked to several target tokens; only the target's side is looked at.
    """
    edges, _ = dtw(
        [piece.replace(source_marker, "") for piece in source_pieces],
        [piece.replace(target_marker, "") for piece in target_pieces],
    )
    counts = np.bincount(edges[:, 1], minlength=len(target_pieces))
    link = np.full(len(target_pieces), -1, dtype=np.int64)
    link[edges[:, 1]] = edges[:, 0]
    return np.where(counts == 1, link, -1)


def _usable(
    links: NDArray[np.int64],
    source_pieces: Sequence[str],
    target_pieces: Sequence[str],
    source_marker: str,
    target_marker: str,
    kind: str,
    soft_mapping: Mapping[str, str],
) -> NDArray[np.bool_]:
    """bool[m]: linked to one source token whose piece is equal (or, but for `hard`, maps to the target's).

    Quirk: at all other shared boundaries the source's distribution is thrown away though it is valid there.
    """
    used = np.zeros(len(target_pieces), dtype=np.bool_)
    for i, j in enumerate(links.tolist()):
        if j < 0:
            continue
        piece, target = source_pieces[j].replace(source_marker, target_marker), target_pieces[i]
        # Quirk, for sources that mark spaces with Ġ: at the first position only, a missing marker is put in front.
        if i == 0 and source_marker == "Ġ" and target.startswith(target_marker) and not piece.startswith(target_marker):
            piece = target_marker + piece
        used[i] = piece == target or (kind != "hard" and soft_mapping.get(piece) == target)
    return used


def _rectangle(rows: Rows, chosen: NDArray[np.int64], dtype: Any, fill: float) -> NDArray[Any]:
    """The chosen rows as one array, short rows filled up at the end."""
    if isinstance(rows, np.ndarray):
        return rows[chosen].astype(dtype, copy=False)
    picked = [rows[j] for j in chosen.tolist()]
    width = max(map(len, picked), default=0)
    if any(len(row) != width for row in picked):
        picked = [[*row, *[fill] * (width - len(row))] for row in picked]
    return np.array(picked, dtype=dtype).reshape(len(picked), width)


def _target_of(
    ids: NDArray[np.int64],
    source_vocab: Mapping[int, str],
    target_vocab: Mapping[str, int],
    source_marker: str,
    target_marker: str,
    kind: str,
    soft_mapping: Mapping[str, str],
) -> NDArray[np.int64]:
    """int64[highest id + 1]: the target id of each source id that occurs in `ids`, -1 for none."""
    from fusion_core.transfer import _kernel

    occurs = _kernel.occurring(ids, int(ids.max(initial=-1)) + 1)
    table = np.full(len(occurs) + 1, -1, dtype=np.int64)
    found = np.flatnonzero(occurs)
    try:
        pieces = [source_vocab[i] for i in found.tolist()]
    except KeyError as error:
        raise MappingError(f"the source id {error.args[0]} is not in source_vocab") from None
    if source_marker != target_marker:
        pieces = [piece.replace(source_marker, target_marker) for piece in pieces]
    if kind != "hard":
        try:
            pieces = [soft_mapping[piece] for piece in pieces]
        except KeyError as error:
            raise MappingError(
                f"soft_mapping has no entry for the source piece {error.args[0]!r} (marker swapped)"
            ) from None
    table[found] = list(map(target_vocab.get, pieces, repeat(-1)))
    return table


def _first_of_each(mapped: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    from fusion_core.transfer import _kernel

    return np.asarray(_kernel.first_of_each(mapped, size))


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max())
    return np.asarray(shifted / shifted.sum())


def sinkhorn(
    cost: NDArray[np.float64],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    strength: float,
    tolerance: float,
) -> NDArray[np.float64]:
    """PTA-LLM's Sinkhorn iteration: float64[n, m], stopped when the row sums no longer change by `tolerance`."""
    plan = np.exp(-strength * cost)
    plan /= plan.sum()
    before = np.zeros(len(rows))
    while np.max(np.abs(before - plan.sum(1))) > tolerance:
        before = plan.sum(1)
        before[before < _FLOOR] = _FLOOR
        plan *= (rows / before)[:, None]
        sums = plan.sum(0)
        sums[sums < _FLOOR] = _FLOOR
        plan *= (columns / sums)[None, :]
    return np.asarray(plan)


def _transport(
    mapped: list[int],
    source_logits: NDArray[np.float64],
    own: list[int],
    own_logits: NDArray[np.float64],
    pieces: Mapping[int, str],
    source_marker: str,
    target_marker: str,
) -> tuple[list[int], list[float]] | None:
    """The soft result moved onto the target's own entries; None where the published code leaves it as it is.

    Quirk: each row's mass goes whole to its heaviest column, and only that cell's mass is kept. Quirk: the source's
    marker is removed from pieces that are the target's already, so with different markers the space counts as an edit.
    Quirk: fewer than ten entries on either side, and nothing is moved.
    """
    if len(mapped) < OT_ENTRIES or len(own) < OT_ENTRIES:
        return None
    a = [pieces[i].replace(source_marker, "") for i in mapped[:OT_ENTRIES]]
    b = [pieces[i].replace(target_marker, "") for i in own[:OT_ENTRIES]]
    from rapidfuzz.distance import Levenshtein

    cost = cdist(a, b, scorer=Levenshtein.distance).astype(np.float64)
    plan = sinkhorn(
        cost,
        _softmax(source_logits)[:OT_ENTRIES],
        _softmax(own_logits.astype(np.float64))[:OT_ENTRIES],
        OT_STRENGTH,
        OT_TOLERANCE,
    )
    if np.isnan(plan).any():
        return None
    merged: dict[int, float] = {}
    for row in plan:
        column = int(np.argmax(row))
        merged[own[column]] = merged.get(own[column], 0.0) + float(row[column])
    return list(merged), list(merged.values())
