"""Top-k next-token distributions: ids, true log-probabilities, and the tail that was not kept.

from fusion_core.distributions import TopK

top = TopK.from_logits(logits, k=64)     # logits [n, V], a numpy array or a torch tensor on any device
top.tail                                 # what the full softmax gives to all other entries
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fusion_core.errors import DistributionError
from fusion_core.sealed import SealError, read_table, write_table

FORMAT = "fusescope-distributions"
VERSION = 2


@dataclass(frozen=True)
class TopK:
    """Next-token distributions at n positions, k entries kept of each.

    Attributes:
        ids: int32[n, k], best first; or None if all entries are kept, column c then being id c.
        logprobs: float32[n, k], natural logarithms under the full softmax; never renormalised.
        width: how many entries the full softmax ran over: the logits' width, padding rows included.
    """

    ids: NDArray[np.int32] | None
    logprobs: NDArray[np.float32]
    width: int

    def __post_init__(self) -> None:
        if self.logprobs.ndim != 2 or (self.ids is not None and self.ids.shape != self.logprobs.shape):
            raise DistributionError("ids and log-probabilities must both have the shape [positions, kept entries]")

    def __len__(self) -> int:
        return len(self.logprobs)

    @property
    def k(self) -> int:
        """Entries kept at each position."""
        return int(self.logprobs.shape[1])

    @cached_property
    def probs(self) -> NDArray[np.float32]:
        """float32[n, k]: probabilities of the kept entries."""
        return np.asarray(np.exp(self.logprobs))

    @cached_property
    def tail(self) -> NDArray[np.float64]:
        """float64[n]: probability of all entries that were not kept."""
        return np.asarray(np.clip(1.0 - self.probs.sum(axis=1, dtype=np.float64), 0.0, 1.0))

    @classmethod
    def from_logits(cls, logits: Any, k: int, *, size: int | None = None) -> TopK:
        """The k best entries of each row of `logits`.

        Args:
            logits: [n, V], a numpy array or a torch tensor (any float dtype, CPU or GPU; accumulated in float32).
            k: entries to keep; 0, or at least as many as there are, keeps all.
            size: entries that the tokenizer has. Columns beyond are padding: they are never kept, and what the softmax
                gives them is part of the tail.

        Raises:
            DistributionError: the shape is wrong, or a row holds NaN, +inf, or nothing but -inf.
        """
        if k < 0:
            raise DistributionError(f"k must be 0 (all) or more, got {k}")
        if getattr(logits, "ndim", 0) != 2 or logits.shape[1] == 0:
            raise DistributionError("logits must have the shape [positions, vocabulary]")
        width = int(logits.shape[1])
        kept = min(width, size) if size is not None else width
        if isinstance(logits, np.ndarray):
            return cls._from_array(logits, k, kept)
        import torch

        values = logits.detach().float()
        # Relative to the row's best: beside large logits the logarithm of a sum would be rounded away.
        top = values.amax(dim=1, keepdim=True)
        total = (values - top).exp_().sum(dim=1, keepdim=True).log_()
        check_totals(total.squeeze(1).cpu().numpy())
        if k == 0 or k >= kept:
            return cls(None, (values[:, :kept] - top - total).cpu().numpy(), width)
        best, ids = torch.topk(values[:, :kept], k, dim=1)
        return cls(ids.to(torch.int32).cpu().numpy(), (best - top - total).cpu().numpy(), width)

    @classmethod
    def _from_array(cls, logits: NDArray[Any], k: int, kept: int) -> TopK:
        values = logits.astype(np.float32)
        top = values.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", over="ignore"):
            relative = values - top
            total = np.log(np.exp(relative).sum(axis=1, keepdims=True))
        check_totals(total[:, 0])
        logprobs = (relative - total)[:, :kept]
        if k == 0 or k >= kept:
            return cls(None, logprobs, logits.shape[1])
        ids = _best_columns(logprobs, k)
        return cls(ids.astype(np.int32), np.take_along_axis(logprobs, ids, axis=1), logits.shape[1])

    def truncate(self, k: int) -> TopK:
        """The same positions with the k best entries of each; what is cut goes to the tail."""
        if k == 0 or k >= self.k:
            return self
        order = _best_columns(self.logprobs, k)
        ids = order if self.ids is None else np.take_along_axis(self.ids, order, axis=1)
        return TopK(ids.astype(np.int32), np.take_along_axis(self.logprobs, order, axis=1), self.width)

    def rows(self, positions: Any) -> TopK:
        """The chosen positions (a slice, or an array of indices)."""
        return TopK(None if self.ids is None else self.ids[positions], self.logprobs[positions], self.width)

    def with_ids(self) -> TopK:
        """The same with the ids said where all entries are kept."""
        if self.ids is not None:
            return self
        return TopK(np.tile(np.arange(self.k, dtype=np.int32), (len(self), 1)), self.logprobs, self.width)

    def with_empty_row(self) -> TopK:
        """The same with a row in front that says nothing: where a model predicts no first token."""
        nothing = np.full((1, self.k), -np.inf, dtype=np.float32)
        ids = None if self.ids is None else np.concatenate([np.arange(self.k, dtype=np.int32)[None, :], self.ids])
        return TopK(ids, np.concatenate([nothing, self.logprobs]), self.width)

    def logprob_of(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """float64[n]: the log-probability of one id per position, -inf where it was not kept."""
        if self.ids is None:
            inside = (ids >= 0) & (ids < self.k)
            found = self.logprobs[np.arange(len(self)), np.where(inside, ids, 0)].astype(np.float64)
            return np.where(inside, found, -np.inf)
        hit = self.ids == np.asarray(ids)[:, None]
        return np.where(hit.any(axis=1), self.logprobs[np.arange(len(self)), hit.argmax(axis=1)], -np.inf)

    def best(self) -> NDArray[np.int64]:
        """int64[n]: the most probable id at each position, the lowest of several."""
        column = self.logprobs.argmax(axis=1)
        return np.asarray(column if self.ids is None else self.ids[np.arange(len(self)), column], dtype=np.int64)

    def to_dense(self) -> NDArray[np.float32]:
        """float32[n, width]: log-probabilities, with the tail spread evenly over the entries that were not kept."""
        rest = self.width - self.k
        with np.errstate(divide="ignore"):
            fill = np.log(self.tail / rest) if rest else np.full(len(self), -np.inf)
        dense = np.repeat(fill[:, None], self.width, axis=1).astype(np.float32)
        if self.ids is None:
            dense[:, : self.k] = self.logprobs
        else:
            np.put_along_axis(dense, self.ids.astype(np.int64), self.logprobs, axis=1)
        return dense

    @classmethod
    def from_dense(cls, logprobs: NDArray[Any], k: int = 0) -> TopK:
        """From log-probabilities [n, V] that sum to 1; raises `DistributionError` if they do not within 1e-3."""
        sums = np.exp(logprobs.astype(np.float64)).sum(axis=1)
        if len(sums) and not np.allclose(sums, 1.0, atol=1e-3):
            raise DistributionError("these are no log-probabilities: a row's probabilities do not sum to 1")
        return cls(None, logprobs.astype(np.float32), logprobs.shape[1]).truncate(k)


def _best_columns(values: NDArray[Any], k: int) -> NDArray[np.int64]:
    """int64[n, k]: the columns of the k largest values of each row, largest first, ties to the lowest column."""
    out = np.empty((len(values), k), dtype=np.int64)
    for row, best in zip(values, out, strict=True):
        least = np.partition(row, len(row) - k)[len(row) - k]
        held = np.flatnonzero(row >= least)
        best[:] = held[np.argsort(-row[held], kind="stable")[:k]]
    return out


def check_totals(totals: NDArray[Any]) -> None:
    """Raise `DistributionError` where a row's log-sum-exp says that its logits are none."""
    bad = np.flatnonzero(~np.isfinite(totals))
    if len(bad):
        raise DistributionError(
            f"the logits at position {bad[0]} hold NaN or +inf, or nothing but -inf ({len(bad)} such positions); "
            "was the model run in float16, or is its file damaged?"
        )


def save_distributions(top: TopK, path: str | Path, identity: Mapping[str, str]) -> None:
    """Write to a Parquet file, whole or not at all.

    Args:
        identity: what the distributions belong to: by convention `model`, `tokenizer` (its fingerprint) and `text`
            (SHA-256 of its UTF-8 bytes).
    """
    columns = {"logprobs": pa.FixedSizeListArray.from_arrays(pa.array(top.logprobs.reshape(-1)), top.k)}
    if top.ids is not None:
        columns["ids"] = pa.FixedSizeListArray.from_arrays(pa.array(top.ids.reshape(-1)), top.k)
    header = {"width": top.width, "k": top.k, "identity": dict(identity)}
    try:
        write_table(pa.table(columns), Path(path), FORMAT, VERSION, header)
    except OSError as error:
        raise DistributionError(f"cannot write distributions to {path}: {error.strerror or error}") from error


def load_distributions(path: str | Path, expect: Mapping[str, str] | None = None) -> tuple[TopK, dict[str, str]]:
    """Distributions and their identity.

    Args:
        expect: parts of the identity that must be as given, such as `{"tokenizer": tokenizer.fingerprint}`.

    Raises:
        DistributionError: the file cannot be read, is damaged, of another version, or belongs to something else.
    """
    try:
        table, header = read_table(Path(path), FORMAT, VERSION)
        k, width = int(header["k"]), int(header["width"])
        identity = {str(key): str(value) for key, value in header["identity"].items()}

        def matrix(name: str, dtype: Any) -> NDArray[Any]:
            flat = table[name].combine_chunks()
            values = flat.flatten().to_numpy(zero_copy_only=False)
            return np.asarray(values, dtype=dtype).reshape(table.num_rows, k)

        ids = matrix("ids", np.int32) if "ids" in table.column_names else None
        top = TopK(ids, matrix("logprobs", np.float32), width)
    except SealError as error:
        raise DistributionError(f"no readable distributions: {error}") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DistributionError(f"{path} holds no readable distributions ({type(error).__name__}: {error})") from error
    sums = top.probs.sum(axis=1, dtype=np.float64)
    if np.isnan(sums).any() or (sums > 1 + 1e-2).any() or (ids is not None and ((ids < 0) | (ids >= width)).any()):
        raise DistributionError(f"{path} is damaged: its ids or probabilities are out of range")
    for key, value in (expect or {}).items():
        if identity.get(key) != value:
            raise DistributionError(f"{path} belongs to the {key} {identity.get(key)!r}, not to {value!r}")
    return top, identity
