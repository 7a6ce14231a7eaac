"""How faithful a transfer is: a source model seen through it, as a predictor of the target's gold tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusion_core.errors import TransferError
from fusion_core.transfer import LEDGER, METHODS, Predictions, Transfer, TransferIndex, transfer

if TYPE_CHECKING:
    import pandas as pd

# What a probability counts as at least where two distributions are compared.
FLOOR = 1e-10


@dataclass(frozen=True)
class MethodFidelity:
    """One method's figures.

    Attributes:
        name: the method's registered name.
        coverage: share of target positions with a transfer.
        top1: share of covered positions at which the most probable id is the gold one.
        nll: mean nats of the gold token over covered positions, tail and lost mass spread evenly.
        bpb: bits per byte over all positions, an uncovered one counting as uniform.
        ratio: `bpb` by the source's own; 1 is perfect.
        ledger: mean mass by kind over all positions.
        seconds: of the transfer alone.
        kl: mean nats from `marginal` over the positions compared, None if it was not asked for.
        agreement: share of these at which both have the same most probable id.
    """

    name: str
    coverage: float
    top1: float
    nll: float
    bpb: float
    ratio: float
    ledger: dict[str, float]
    seconds: float
    kl: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class Fidelity:
    """Several methods on one text. `source_bpb` is the limit of a transfer, `target_bpb` the target model's own."""

    source: str
    target: str
    bytes: int
    positions: int
    source_bpb: float
    target_bpb: float
    methods: tuple[MethodFidelity, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the form of `fusescope fidelity --format json`."""
        values = asdict(self)
        for row in values["methods"]:
            if row["kl"] is None:
                del row["kl"], row["agreement"]
        values["methods"] = list(values["methods"])
        return values

    def to_frame(self) -> pd.DataFrame:
        """One row per method."""
        import pandas as pd

        rows = self.to_dict()["methods"]
        return pd.DataFrame([{k: v for k, v in (row | row["ledger"]).items() if k != "ledger"} for row in rows])


def bits_per_byte(carried: Transfer, own: Predictions) -> float:
    """Bits per byte of the text after the target's first token, as predicted through the transfer."""
    size = len(own.encoding.data) - int(own.encoding.ends[0])
    return float(-np.log2(carried.prob_of(own.encoding.ids[1:])).sum() / size)


def measure(carried: Transfer, own: Predictions, source_bpb: float, seconds: float) -> MethodFidelity:
    """The figures of a transfer to the tokens of `own`."""
    gold = own.encoding.ids[1:]
    covered = carried.covered
    probs = carried.prob_of(gold)
    any_covered = bool(covered.any())
    bpb = bits_per_byte(carried, own)
    means = carried.ledger.mean(axis=0) if len(carried) else np.zeros(len(LEDGER))
    return MethodFidelity(
        name=carried.method,
        coverage=carried.coverage,
        top1=float((carried.best() == gold)[covered].mean()) if any_covered else 0.0,
        nll=float(-np.log(probs[covered]).mean()) if any_covered else float("nan"),
        bpb=bpb,
        ratio=bpb / source_bpb,
        ledger=dict(zip(LEDGER, means.tolist(), strict=True)),
        seconds=seconds,
    )


def fidelity(
    source: Predictions,
    own: Predictions,
    index: TransferIndex,
    methods: Sequence[str] = tuple(METHODS),
    *,
    reference: Transfer | None = None,
    reference_positions: NDArray[np.integer[Any]] | None = None,
) -> Fidelity:
    """Every method's figures on one text.

    Args:
        source, own: the source's and the target's predictions on the same text.
        reference, reference_positions: what `marginal` found, and at which target positions.

    Raises:
        TransferError: the text has fewer than two target tokens, or a method is unknown.
    """
    if len(own.encoding) < 2 or len(source.encoding) < 2:
        raise TransferError("the text is too short: it needs at least two tokens on both sides")
    limit = source.bits_per_byte
    rows = []
    for method in methods:
        start = time.perf_counter()
        carried = transfer(source, own.encoding, index, method=method, own=own)
        row = measure(carried, own, limit, time.perf_counter() - start)
        if reference is not None and reference_positions is not None:
            kl, agreement = divergence(reference, carried, reference_positions)
            row = replace(row, kl=kl, agreement=agreement)
        rows.append(replace(row, name=method))
    return Fidelity(
        source.model, own.model, len(own.encoding.data), len(own.encoding) - 1, limit, own.bits_per_byte, tuple(rows)
    )


def divergence(reference: Transfer, carried: Transfer, positions: NDArray[np.integer[Any]]) -> tuple[float, float]:
    """Mean KL(reference, carried) in nats and top-1 agreement; row n of `reference` is position `positions[n]`.

    Tail and lost mass of both are spread evenly; a probability of `carried` counts as at least `FLOOR`.
    """
    total, same = 0.0, 0
    best = carried.best()[positions]
    for n, i in enumerate(np.asarray(positions).tolist()):
        p, q = reference.to_dense(n), np.maximum(carried.to_dense(i), FLOOR)
        held = p > 0
        total += float((p[held] * np.log(p[held] / q[held])).sum())
    same = int((best == reference.best()).sum())
    count = max(1, len(positions))
    return total / count, same / count
