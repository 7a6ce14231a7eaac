"""The published rule, token by token as FuseLLM's and PTA-LLM's papers and code describe it, over the textbook warp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import editdistance

from tests.oracles.dtw import dtw


def transform(
    source_pieces: Sequence[str],
    target_pieces: Sequence[str],
    topk_ids: Sequence[Sequence[int]],
    topk_logits: Sequence[Sequence[float]],
    source_vocab: Mapping[int, str],
    target_vocab: Mapping[str, int],
    markers: tuple[str, str],
    soft: Mapping[str, str] | None,
) -> tuple[list[list[int]], list[list[float]]]:
    """`soft` None is the hard kind."""
    swap = lambda piece: piece.replace(*markers)  # noqa: E731
    distance = lambda a, b: editdistance.eval(a.replace(markers[0], ""), b.replace(markers[1], ""))  # noqa: E731
    path, _ = dtw(source_pieces, target_pieces, distance)
    linked: list[list[int]] = [[] for _ in target_pieces]
    for i, j in path:
        linked[j].append(i)
    all_ids, all_values = [], []
    for at, (piece, partners) in enumerate(zip(target_pieces, linked, strict=True)):
        ids: list[int] = []
        values: list[float] = []
        other = swap(source_pieces[partners[0]])
        if at == 0 and markers[0] == "Ġ" and piece.startswith(markers[1]) and not other.startswith(markers[1]):
            other = markers[1] + other
        fits = other == piece or (soft is not None and soft.get(other) == piece)
        if len(partners) == 1 and fits:
            for i, logit in zip(topk_ids[partners[0]], topk_logits[partners[0]], strict=True):
                name = swap(source_vocab[i])
                if soft is not None:
                    name = soft[name]
                if name in target_vocab and target_vocab[name] not in ids:
                    ids.append(target_vocab[name])
                    values.append(logit)
        else:
            ids, values = [target_vocab[piece]], [1.0]
        all_ids.append(ids)
        all_values.append(values)
    return all_ids, all_values
