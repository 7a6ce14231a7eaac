"""An alignment of two encodings of one text: its edges, groups and figures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusion_core.alignment._dtw import pair_cost
from fusion_core.alignment._methods import Options, method_named, warp_strings
from fusion_core.errors import AlignmentError
from fusion_core.text import show_bytes
from fusion_core.tokenizers import Encoding, Tokenizer

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("1:1", "1:n", "n:1", "n:m", "unpaired")


@dataclass(frozen=True)
class Quality:
    """How well two tokenizations of a text fit together.

    Attributes:
        shared_boundaries: share of target positions at which the source has read exactly the same text.
        equal_one_to_one: share of target tokens that are linked to one source token, which is linked to them alone
            and spells the same bytes. FuseLLM's published rule transfers at these alone.
        linked: share of target tokens with any link.
        bytes_beyond_one_to_one: share of the text's bytes that lie in groups other than 1:1.
        source_tokens_per_byte, target_tokens_per_byte: how finely each side cuts the text.
        inexact: share of tokens of both sides whose span is not exact.
    """

    shared_boundaries: float
    equal_one_to_one: float
    linked: float
    bytes_beyond_one_to_one: float
    source_tokens_per_byte: float
    target_tokens_per_byte: float
    inexact: float


@dataclass(frozen=True)
class Alignment:
    """The edges between the tokens of two encodings of the same text, under one method.

    Attributes:
        source, target: the two encodings.
        method, options: how the edges were found.
        edges: int32[e, 2], (source index, target index); ascending, and in path order for `dtw`.
        cost: the path's cost under `dtw`, else 0.
        groups: int64[g, 6], the minimal runs of both sides that cover the same bytes: source from, source to, target
            from, target to, first byte, end byte. They follow from the spans and are the same for every method.
    """

    source: Encoding
    target: Encoding
    method: str
    options: Options
    edges: NDArray[np.int32]
    cost: float
    groups: NDArray[np.int64]

    @cached_property
    def kinds(self) -> NDArray[np.int8]:
        """int8[g]: the kind of each group, an index into `KINDS`."""
        a = self.groups[:, 1] - self.groups[:, 0]
        b = self.groups[:, 3] - self.groups[:, 2]
        kinds = np.select([(a == 0) | (b == 0), (a == 1) & (b == 1), a == 1, b == 1], [4, 0, 1, 2], default=3)
        return kinds.astype(np.int8)

    def group_of(self, side: str) -> NDArray[np.int64]:
        """int64[n]: the group of each token of `source` or `target`."""
        column = 0 if side == "source" else 2
        counts = self.groups[:, column + 1] - self.groups[:, column]
        return np.repeat(np.arange(len(self.groups)), counts)

    @cached_property
    def shared(self) -> NDArray[np.bool_]:
        """bool[m]: target positions at a shared boundary with the source."""
        source_ends = self.source.ends[self.source.closed]
        return np.asarray(self.target.closed & np.isin(self.target.ends, source_ends))

    @cached_property
    def equal_edges(self) -> NDArray[np.bool_]:
        """bool[e]: the edge links one to one, and both tokens spell the same bytes."""
        i, j = self.edges[:, 0], self.edges[:, 1]
        alone = (np.bincount(i, minlength=1)[i] == 1) & (np.bincount(j, minlength=1)[j] == 1)
        a, b = self.source.canonical, self.target.canonical
        same = np.fromiter((a[p] == b[q] for p, q in self.edges.tolist()), dtype=np.bool_, count=len(self.edges))
        return np.asarray(alone & same)

    @cached_property
    def quality(self) -> Quality:
        """The figures; an empty text counts as perfectly aligned."""
        tokens, size = len(self.target), len(self.source.data)

        def share(part: float, whole: float, empty: float) -> float:
            return float(part) / whole if whole else empty

        wide = self.kinds != 0
        inexact = int(np.count_nonzero(~self.source.exact)) + int(np.count_nonzero(~self.target.exact))
        return Quality(
            shared_boundaries=share(int(np.count_nonzero(self.shared)), tokens, 1.0),
            equal_one_to_one=share(int(np.count_nonzero(self.equal_edges)), tokens, 1.0),
            linked=share(len(np.unique(self.edges[:, 1])), tokens, 1.0),
            bytes_beyond_one_to_one=share((self.groups[wide, 5] - self.groups[wide, 4]).sum(), size, 0.0),
            source_tokens_per_byte=share(len(self.source), size, 0.0),
            target_tokens_per_byte=share(tokens, size, 0.0),
            inexact=share(inexact, len(self.source) + tokens, 0.0),
        )

    @cached_property
    def edge_costs(self) -> NDArray[np.float64]:
        """float64[e]: what each linked pair costs under the method's own measure; 0 but for `dtw`."""
        if self.method != "dtw":
            return np.zeros(len(self.edges))
        a, b = (warp_strings(side, self.options.compare) for side in (self.source, self.target))
        pairs = [(a[i], b[j]) for i, j in self.edges.tolist()]
        return np.array([pair_cost(x, y, self.options.cost) for x, y in pairs], dtype=np.float64)

    def reason(self, edge: int) -> str:
        """Why the edge is there, in words."""
        i, j = self.edges[edge].tolist()
        if self.method == "exact":
            return "the same bytes in the same place"
        if self.method == "dtw":
            return f"on the cheapest path; this pair costs {self.edge_costs[edge]:g}"
        low = max(self.source.starts[i], self.target.starts[j])
        high = min(self.source.ends[i], self.target.ends[j])
        return f"both cover bytes {low}–{high}"

    def to_frame(self) -> pd.DataFrame:
        """One row per edge: both tokens with index, id, piece and span, the group and its kind."""
        import pandas as pd

        i, j = self.edges[:, 0], self.edges[:, 1]
        groups = self.group_of("target")[j] if len(self.groups) else j
        columns: dict[str, Any] = {}
        for name, encoding, at in (("source", self.source, i), ("target", self.target, j)):
            columns[f"{name}_index"] = at
            columns[f"{name}_id"] = encoding.ids[at]
            columns[f"{name}_piece"] = [encoding.pieces[k] for k in at.tolist()]
            columns[f"{name}_text"] = [show_bytes(encoding.canonical[k]) for k in at.tolist()]
            columns[f"{name}_start"] = encoding.starts[at]
            columns[f"{name}_end"] = encoding.ends[at]
            columns[f"{name}_exact"] = encoding.exact[at]
        columns["group"] = groups
        columns["kind"] = [KINDS[k] for k in self.kinds[groups]]
        columns["equal"] = self.equal_edges
        return pd.DataFrame(columns)

    def group_frame(self) -> pd.DataFrame:
        """One row per group: its text, bytes, kind, and both sides' tokens."""
        import pandas as pd

        def shown(encoding: Encoding, low: int, high: int) -> str:
            return " | ".join(map(encoding.tokenizer.vocabulary.shown, encoding.ids[low:high].tolist()))

        data = self.source.data
        rows = []
        for (a0, a1, b0, b1, low, high), kind in zip(self.groups.tolist(), self.kinds, strict=True):
            rows.append(
                {
                    "text": show_bytes(data[low:high], invisible=True),
                    "start": low,
                    "end": high,
                    "kind": KINDS[kind],
                    "source": shown(self.source, a0, a1),
                    "target": shown(self.target, b0, b1),
                }
            )
        return pd.DataFrame(rows, columns=["text", "start", "end", "kind", "source", "target"])

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, the form of the JSON download and of `fusescope align --format json`."""

        def side(encoding: Encoding) -> dict[str, Any]:
            return {
                "tokenizer": encoding.tokenizer.name,
                "fingerprint": encoding.tokenizer.fingerprint,
                "ids": encoding.ids.tolist(),
                "pieces": encoding.pieces,
                "starts": encoding.starts.tolist(),
                "ends": encoding.ends.tolist(),
                "exact": encoding.exact.tolist(),
            }

        return {
            "text": self.source.text,
            "method": self.method,
            "options": asdict(self.options),
            "source": side(self.source),
            "target": side(self.target),
            "edges": self.edges.tolist(),
            "cost": self.cost,
            "groups": self.groups[:, :4].tolist(),
            "kinds": [KINDS[kind] for kind in self.kinds],
            "quality": asdict(self.quality),
        }

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)


def align(
    source: Encoding | Tokenizer,
    target: Encoding | Tokenizer,
    *,
    text: str | None = None,
    method: str = "span",
    cost: str = "edit",
    compare: str = "bytes",
) -> Alignment:
    """Align two encodings of the same text.

    Args:
        source, target: encodings, or tokenizers together with `text`.
        text: what to encode, if tokenizers are given.
        method: a name in `METHODS`.
        cost: for `dtw`: `edit` (FuseLLM) or `containment` (FuseChat).
        compare: for `dtw`: `bytes` (canonical bytes) or `pieces` (raw pieces, as FuseLLM does).

    Raises:
        AlignmentError: an unknown method or option, two different texts, or no text.
        TextError: the text cannot be encoded.
    """
    run = method_named(method).run
    encodings = []
    for side in (source, target):
        if isinstance(side, Tokenizer):
            if text is None:
                raise AlignmentError("tokenizers need a text to be aligned on: align(source, target, text=...)")
            side = side.encode(text)
        encodings.append(side)
    a, b = encodings
    if a.text != b.text:
        raise AlignmentError("the two encodings are of different texts")
    from fusion_core.alignment import _span_kernel

    options = Options(cost, compare)
    links = run(a, b, options)
    groups = _span_kernel.cut_groups(a.ends, a.closed, b.ends, b.closed, len(a.data))
    return Alignment(a, b, method, options, links.edges, links.cost, groups)
