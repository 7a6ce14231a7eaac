"""How faithful a transfer is: a source model seen through it, as a predictor of the target's gold tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusion_core.errors import TransferError
from fusion_core.fusion import LEVELS, RULES, cross_entropies, cross_entropy, fuse, fusion_weights
from fusion_core.mapping import Progress
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
    tally = Tally()
    tally.add(carried, own)
    return tally.bpb


@dataclass
class Tally:
    """Sums over documents, from which a method's figures follow."""

    positions: int = 0
    covered: int = 0
    correct: int = 0
    covered_nats: float = 0.0
    bits: float = 0.0
    bytes: int = 0
    seconds: float = 0.0
    mass: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(LEDGER)))

    def add(self, carried: Transfer, own: Predictions, seconds: float = 0.0) -> None:
        """Count a transfer to the tokens of `own`."""
        gold = own.encoding.ids[1:]
        probs = np.maximum(carried.prob_of(gold), 1e-30)
        self.positions += len(carried)
        self.covered += int(carried.covered.sum())
        self.correct += int((carried.best() == gold)[carried.covered].sum())
        self.covered_nats -= float(np.log(probs[carried.covered]).sum())
        self.bits -= float(np.log2(probs).sum())
        self.bytes += len(own.encoding.data) - int(own.encoding.ends[0])
        self.seconds += seconds
        self.mass += carried.ledger.sum(axis=0)

    @property
    def bpb(self) -> float:
        """Bits per byte over all positions."""
        return self.bits / self.bytes if self.bytes else float("nan")

    def figures(self, name: str, source_bpb: float) -> MethodFidelity:
        """The figures of the method `name`."""
        covered = max(1, self.covered)
        return MethodFidelity(
            name=name,
            coverage=self.covered / max(1, self.positions),
            top1=self.correct / covered,
            nll=self.covered_nats / covered if self.covered else float("nan"),
            bpb=self.bpb,
            ratio=self.bpb / source_bpb if source_bpb > 0 else float("nan"),
            ledger=dict(zip(LEDGER, (self.mass / max(1, self.positions)).tolist(), strict=True)),
            seconds=self.seconds,
        )


def fidelity(
    source: Predictions | Sequence[Predictions],
    own: Predictions | Sequence[Predictions],
    index: TransferIndex,
    methods: Sequence[str] = tuple(METHODS),
    *,
    reference: Transfer | None = None,
    reference_positions: NDArray[np.integer[Any]] | None = None,
    progress: Progress | None = None,
) -> Fidelity:
    """Every method's figures on one text, or on several taken together.

    Args:
        source, own: the source's and the target's predictions on the same text or texts.
        reference, reference_positions: what `marginal` found, and at which target positions (of one text).
        progress: called as `progress(done, total)`, counting methods times texts.

    Raises:
        TransferError: a text has fewer than two tokens on a side, or a method is unknown.
    """
    sources = [source] if isinstance(source, Predictions) else list(source)
    owns = [own] if isinstance(own, Predictions) else list(own)
    if not sources or len(sources) != len(owns):
        raise TransferError(f"{len(sources)} texts of the source and {len(owns)} of the target")
    if reference is not None and len(sources) > 1:
        raise TransferError("marginal is compared with on one text at a time")
    if any(len(one.encoding) < 2 for one in (*sources, *owns)):
        raise TransferError("the text is too short: it needs at least two tokens on both sides")
    limit = pooled_bits_per_byte(sources)
    rows = []
    for m, method in enumerate(methods):
        tally = Tally()
        for n, (theirs, ours) in enumerate(zip(sources, owns, strict=True)):
            start = time.perf_counter()
            carried = transfer(theirs, ours.encoding, index, method=method, own=ours)
            tally.add(carried, ours, time.perf_counter() - start)
            if progress is not None:
                progress(m * len(sources) + n + 1, len(methods) * len(sources))
        row = tally.figures(method, limit)
        if reference is not None and reference_positions is not None:
            kl, agreement = divergence(reference, carried, reference_positions)
            row = replace(row, kl=kl, agreement=agreement)
        rows.append(row)
    size, positions = sum(len(one.encoding.data) for one in owns), sum(len(one.encoding) - 1 for one in owns)
    return Fidelity(sources[0].model, owns[0].model, size, positions, limit, pooled_bits_per_byte(owns), tuple(rows))


def pooled_bits_per_byte(predictions: Sequence[Predictions]) -> float:
    """A model's own bits per byte over several texts, each after its first token."""
    bits = sum(float(one.nll.sum()) / np.log(2) for one in predictions)
    size = sum(len(one.encoding.data) - int(one.encoding.ends[0]) for one in predictions if len(one.encoding))
    return bits / size if size else float("nan")


@dataclass(frozen=True)
class FusedFidelity:
    """Several sources fused, as a predictor of the target's tokens.

    Attributes:
        rule, level: as for `fusion.fuse`. At the level `token` the gold token itself chooses the weights: the bits per
            byte say how much choice there is, not how well the fused distribution would predict.
        bpb: bits per byte through the fused distribution; `gain`: how far that is below the best single source's.
        weights: each source's mean weight.
    """

    rule: str
    level: str
    bpb: float
    gain: float
    weights: tuple[float, ...]


def fused_fidelity(
    sources: Sequence[Sequence[Predictions]],
    owns: Sequence[Predictions],
    indices: Sequence[TransferIndex],
    method: str = "byte-exact",
    *,
    rules: Sequence[str] = tuple(RULES),
) -> tuple[list[float], list[FusedFidelity]]:
    """Bits per byte of each source seen through `method`, and of all of them fused by each rule and level.

    Args:
        sources: per source its predictions on every text; `owns`: the target's; `indices`: one per source.
    """
    levels = [(rule, level) for rule in rules for level in (LEVELS if rule.endswith("_ce") else ("sequence",))]
    singles = [Tally() for _ in sources]
    fused = {key: Tally() for key in levels}
    weights = {key: np.zeros(len(sources)) for key in levels}
    for n, ours in enumerate(owns):
        gold = ours.encoding.ids[1:]
        carried = [
            transfer(theirs[n], ours.encoding, index, method=method, own=ours)
            for theirs, index in zip(sources, indices, strict=True)
        ]
        for tally, one in zip(singles, carried, strict=True):
            tally.add(one, ours)
        own_ce = [cross_entropy(theirs[n]) for theirs in sources]
        for rule, level in levels:
            ce = cross_entropies(level, own_ce, carried, gold)
            fused[rule, level].add(fuse(carried, rule, ce), ours)
            weights[rule, level] += fusion_weights(carried, rule, ce).sum(axis=1)
    own_bpb = [tally.bpb for tally in singles]
    return own_bpb, [
        FusedFidelity(
            *key, tally.bpb, min(own_bpb) - tally.bpb, tuple((weights[key] / max(1, tally.positions)).tolist())
        )
        for key, tally in fused.items()
    ]


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
