"""`transfer` and `fuse`: taught distributions at the target's positions, from one source and from several.

A row is a document. Position i of its m = n - 1 positions predicts token i + 1; its entries are `counts[i]` of the flat
`ids` and `logprobs`, best first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fusion_core import Tokenizer
from fusion_core.compat.fusellm import transform_step_logits
from fusion_core.errors import DistributionError
from fusion_core.fusion import cross_entropies, cross_entropy, fuse
from fusion_core.mapping import map_vocabulary
from fusion_core.models import most_probable
from fusion_core.packing import rounded
from fusion_core.transfer import Predictions, Transfer, TransferIndex, transfer
from training.stages.records import DOCUMENTS, as_lists, predictions_of

CARRIED = pa.schema(
    [
        *DOCUMENTS,
        ("tokens", pa.list_(pa.int32())),
        ("counts", pa.list_(pa.int32())),
        ("ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float16())),  # rounded probabilities would lose the rest where the source is sure
        ("covered", pa.list_(pa.bool_())),
        ("nats_per_byte", pa.float64()),  # the source's own cross-entropy of the document
        ("ledger", pa.list_(pa.float32())),  # mean mass by the kinds of fusion_core.transfer.LEDGER
    ]
)
# Raised with every change of the code after which the same predictions are carried over to other distributions, or rows
# have another form, so that shards made before it are made anew.
REVISION = 5
# Probability below which an entry is not kept.
LEAST = 2**-24
# FuseLLM's and PTA-LLM's code as it is, by the name of a source's method.
PUBLISHED = {"published-hard": "hard", "published-soft": "soft", "published-ot": "ot"}


def join(sides: Mapping[str, pa.RecordBatch]) -> pa.RecordBatch:
    """Batches about the same documents as one, columns named `side.column`; raises `DistributionError` if not."""
    first = next(iter(sides.values()))
    columns: dict[str, Any] = {}
    for side, batch in sides.items():
        if batch.column("text") != first.column("text"):
            raise DistributionError("these shards are not about the same documents; teach all models on one corpus")
        columns |= {f"{side}.{name}": batch.column(name) for name in batch.schema.names}
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def side_of(batch: pa.RecordBatch, side: str) -> pa.RecordBatch:
    """One side of a joined batch."""
    names = [name for name in batch.schema.names if name.startswith(f"{side}.")]
    return pa.RecordBatch.from_arrays(
        [batch.column(name) for name in names], names=[name.removeprefix(f"{side}.") for name in names]
    )


def carry(
    batch: pa.RecordBatch,
    settings: Mapping[str, Mapping[str, Any]],
    index: TransferIndex,
    method: str,
    top_k: int,
) -> pa.RecordBatch:
    """The stage `transfer`: `TAUGHT` rows of the sides `source` and `target`, joined, in; `CARRIED` out.

    Args:
        settings: per side, what `teach` wrote into its manifest.
        top_k: entries kept at each position.
    """
    theirs = predictions_of(side_of(batch, "source"), settings["source"], index.source)
    owns = predictions_of(side_of(batch, "target"), settings["target"], index.target)
    carried = []
    pieces = soft_pieces(index.source, index.target) if method in PUBLISHED and PUBLISHED[method] != "hard" else None
    for source, own in zip(theirs, owns, strict=True):
        if method in PUBLISHED:
            best = {
                "source": _most_probable(source, settings["source"]),
                "own": _most_probable(own, settings["target"]),
            }
            carried.append(published(**best, method=method, pieces=pieces))
        else:
            carried.append(transfer(source, own.encoding, index, method=method, own=own))
    ce = [cross_entropy(one) if len(one.encoding) > 1 else float("inf") for one in theirs]
    return _rows(side_of(batch, "target"), carried, ce, top_k)


def _most_probable(taught: Predictions, settings: Mapping[str, Any]) -> Predictions:
    """What the published code reads: no entry that was kept for the sake of the text."""
    return taught.truncate(most_probable(taught.top.k)) if settings["keep"] == "text" else taught


def published(source: Predictions, own: Predictions, method: str, pieces: Mapping[str, str] | None = None) -> Transfer:
    """The published code's distributions: `published-hard` and `published-soft` (FuseLLM, arXiv 2401.10491) or
    `published-ot` (PTA-LLM, arXiv 2509.17276). What was kept is renormalised, and where nothing is aligned stands a
    one-hot on the current token, so that every position counts as covered. `pieces`: `soft_pieces`, but for hard."""
    count = max(0, len(own.encoding) - 1)
    if source.top.ids is None or own.top.ids is None:
        raise DistributionError("the published rules need top-k distributions")
    a, b, kind = source.encoding.tokenizer, own.encoding.tokenizer, PUBLISHED[method]
    ids, logits = transform_step_logits(
        source.encoding.pieces,
        own.encoding.pieces,
        source.top.ids[1:],
        source.top.logprobs[1:],
        source_vocab=dict(enumerate(a.vocabulary.pieces)),
        target_vocab=b.vocabulary.by_piece,
        source_marker=a.space_marker,
        target_marker=b.space_marker,
        kind=kind,
        soft_mapping=pieces,
        target_topk_ids=own.top.ids[1:] if kind == "ot" else None,
        target_topk_logits=own.top.logprobs[1:] if kind == "ot" else None,
    )
    probs = [np.exp(np.asarray(row) - np.max(row)) if row else np.zeros(0) for row in logits[:count]]
    counts = np.array([len(row) for row in probs], dtype=np.int64)
    ledger = np.zeros((count, 5))
    ledger[:, 2], ledger[:, 4] = counts > 0, counts == 0
    return Transfer(
        method,
        np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        np.concatenate([*ids[:count], []]).astype(np.int32),
        np.concatenate([*(row / row.sum() for row in probs if len(row)), []]).astype(np.float32),
        ledger,
        counts > 0,
        b.size,
    )


def soft_pieces(source: Tokenizer, target: Tokenizer) -> dict[str, str]:
    """FuseLLM's soft mapping: a source piece with the target's marker -> the nearest target piece."""
    mapping = map_vocabulary(source, target, kind="soft", form="pieces")
    pieces, theirs = source.vocabulary.pieces, target.vocabulary.pieces
    return {
        piece.replace(source.space_marker, target.space_marker): theirs[best] if best >= 0 else piece
        for piece, best in zip(pieces, mapping.best.tolist(), strict=True)
    }


def merge(
    batch: pa.RecordBatch, sides: Sequence[str], size: int, rule: str, level: str, temperature: float, top_k: int
) -> pa.RecordBatch:
    """The stage `fuse`: `CARRIED` rows of several `sides`, joined, in; `CARRIED` out; `size` is of the target."""
    parts = [side_of(batch, side) for side in sides]
    transfers = [carried_of(part, size) for part in parts]
    ces = [part.column("nats_per_byte").to_numpy() for part in parts]
    tokens = parts[0].column("tokens")
    fused = []
    for n in range(batch.num_rows):
        at = [one[n] for one in transfers]
        gold = tokens[n].values.to_numpy()[1:]
        ce = cross_entropies(level, [float(c[n]) for c in ces], at, gold)
        fused.append(fuse(at, rule, ce, temperature=temperature))
    return _rows(parts[0], fused, np.min(ces, axis=0).tolist(), top_k)


def carried_of(batch: pa.RecordBatch, size: int) -> list[Transfer]:
    """The transfers in `CARRIED` rows, all that is not kept booked as tail."""
    found = []
    for n in range(batch.num_rows):
        counts, ids, logprobs, covered = (
            batch.column(name)[n].values.to_numpy(zero_copy_only=False)
            for name in ("counts", "ids", "logprobs", "covered")
        )
        probs = np.exp(logprobs.astype(np.float32))
        indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        kept = np.add.reduceat(np.append(probs, 0.0), indptr[:-1]) * (counts > 0) if len(counts) else np.zeros(0)
        over = np.maximum(kept, 1.0)  # rounding may bring a row above 1
        ledger = np.zeros((len(counts), 5))
        ledger[:, 0] = np.where(covered, kept / over, 0.0)
        ledger[:, 3] = 1.0 - ledger[:, 0]
        probs = (probs / np.repeat(over, counts)).astype(np.float32)
        found.append(Transfer("carried", indptr, ids.astype(np.int32), probs, ledger, covered.astype(np.bool_), size))
    return found


def _rows(documents: pa.RecordBatch, carried: Sequence[Transfer], ce: Sequence[float], top_k: int) -> pa.RecordBatch:
    lists: dict[str, list[NDArray[Any]]] = {name: [] for name in ("counts", "ids", "logprobs", "covered", "ledger")}
    for one in carried:
        counts, ids, probs = one.best_first(top_k, LEAST)
        lists["counts"].append(counts)
        lists["ids"].append(ids)
        lists["logprobs"].append(rounded(np.log(probs), np.concatenate(([0], np.cumsum(counts)))))
        lists["covered"].append(one.covered)
        lists["ledger"].append(one.ledger.mean(axis=0) if len(one) else np.zeros(5))
    columns = {
        **{name: documents.column(name) for name in ("name", "domain", "text", "tokens")},
        **{name: as_lists(values, CARRIED.field(name).type) for name, values in lists.items()},
        "nats_per_byte": pa.array(ce, pa.float64()),
    }
    return pa.RecordBatch.from_arrays([columns[field.name] for field in CARRIED], schema=CARRIED)
