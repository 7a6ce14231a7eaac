"""A loaded model: predictions over whole texts, in windows where a text is longer than the model reads at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion_core.distributions import TopK, check_totals
from fusion_core.errors import ModelError
from fusion_core.mapping import Progress
from fusion_core.models._selection import Selection
from fusion_core.tokenizers import Encoding, Tokenizer
from fusion_core.transfer import Predictions

# Tokens that are read at once at most; the next window begins half of that further on, so that every position but the
# first ones has at least as many tokens of context.
WINDOW = 1024
# Tokens of one forward pass, padding included; the logits take this times the vocabulary.
BATCH_TOKENS = 2048

# Which entries of a distribution are kept.
KEEP = ("text", "best")


@dataclass(frozen=True)
class Scored:
    """How a model predicts a text of n tokens: nats float64[n - 1] of tokens 1 to n - 1 under the full softmax, and
    bool[n - 1], whether each was the most probable, and float32[n - 1] the probability of the most probable one."""

    encoding: Encoding
    nll: NDArray[np.float64]
    correct: NDArray[np.bool_]
    confidence: NDArray[np.float32]


@dataclass(frozen=True)
class Model:
    """A causal language model with its tokenizer; `load_model` makes one.

    Attributes:
        name: as the caller named it.
        tokenizer: encodes its texts.
        network: the transformers model, in evaluation mode.
    """

    name: str
    tokenizer: Tokenizer
    network: Any

    @property
    def start(self) -> int | None:
        """The token that is put before every text, None where the model was trained without one."""
        return self.tokenizer.roles.get("bos") if self.tokenizer.adds_bos else None

    @property
    def positions(self) -> int | None:
        """Tokens that it can read at once at most, None where its configuration names no limit."""
        longest = getattr(self.network.config, "max_position_embeddings", None)
        return int(longest) if longest else None

    @property
    def window(self) -> int:
        """Tokens that are read at once."""
        return min(WINDOW, self.positions or WINDOW)

    @cached_property
    def _selection(self) -> Selection:
        return Selection(self.tokenizer)

    def context_start(self, index: int) -> int:
        """Where the window begins in which the token at `index` (the start token counts) is read."""
        width = self.window
        if index < width:
            return 0
        step = width - width // 2
        return width - width // 2 + (index - width) // step * step

    def predict(
        self, text: str | Encoding, *, top_k: int = 0, keep: str = "text", progress: Progress | None = None
    ) -> Predictions:
        """Next-token distributions at every position of `text`; as `predict_all` for one text."""
        return self.predict_all([text], top_k=top_k, keep=keep, progress=progress)[0]

    def predict_all(
        self,
        texts: Sequence[str | Encoding],
        *,
        top_k: int = 0,
        keep: str = "text",
        progress: Progress | None = None,
    ) -> list[Predictions]:
        """Next-token distributions at every position of several texts, read in batches of similar length.

        Args:
            top_k: entries to keep; 0 keeps the full softmax (n times the vocabulary in float32).
            keep: which: `best`, the most probable; or `text`, half of them so and the others those that a transfer
                along the text asks for (`Selection`).
            progress: called as `progress(done, total)` with tokens.

        Raises:
            ModelError: memory does not suffice, `keep` is neither, or a token is none that the model can read.
            DistributionError: the logits hold NaN.
        """
        if keep not in KEEP:
            raise ModelError(f"keep must be one of {', '.join(KEEP)}, got {keep!r}")
        encodings = [self._encoded(text) for text in texts]
        parts: list[list[TopK]] = [[] for _ in texts]
        lead = 0 if self.start is None else 1
        for text, place, logits in self._logits(encodings, progress):
            if keep == "text" and top_k:
                # The row read at a place predicts the token behind it; the start token counts as a place.
                rows = self._selection.keep(logits, top_k, encodings[text], place + 1 - lead)
            else:
                rows = TopK.from_logits(logits, top_k, size=self.tokenizer.size)
            parts[text].append(rows)
        size, has_start = self._size(top_k), self.start is not None
        return [
            Predictions(encoding, _stack(rows, size, has_start), has_start, self.name)
            for encoding, rows in zip(encodings, parts, strict=True)
        ]

    def score(self, texts: Sequence[str | Encoding], *, progress: Progress | None = None) -> list[Scored]:
        """How each text's tokens after its first are predicted. No distributions are kept, so that memory does not grow
        with the texts; `progress` and errors as for `predict_all`."""
        import torch

        encodings = [self._encoded(text) for text in texts]
        nll = [np.zeros(max(0, len(encoding) - 1)) for encoding in encodings]
        correct = [np.zeros(len(values), dtype=np.bool_) for values in nll]
        confidence = [np.zeros(len(values), dtype=np.float32) for values in nll]
        lead = 0 if self.start is None else 1
        for text, begin, logits in self._logits(encodings, progress):
            # Row r is read at place begin + r and predicts token begin + r + 1 - lead; token 0 is not scored.
            first = max(0, lead - begin)
            gold = encodings[text].ids[begin + first + 1 - lead : begin + len(logits) + 1 - lead]
            if not len(gold):
                continue
            rows = logits[first : first + len(gold)].float()
            chosen = torch.from_numpy(gold.astype(np.int64)).to(rows.device)
            total = torch.logsumexp(rows, dim=1)
            check_totals(total.cpu().numpy())
            nats = total - rows.gather(1, chosen[:, None])[:, 0]
            best, at = rows[:, : self.tokenizer.size].max(dim=1)
            place = slice(begin + first - lead, begin + first - lead + len(gold))
            nll[text][place] = nats.cpu().numpy()
            correct[text][place] = (at == chosen).cpu().numpy()
            confidence[text][place] = (best - total).exp().cpu().numpy()
        return [Scored(*one) for one in zip(encodings, nll, correct, confidence, strict=True)]

    @cached_property
    def entries(self) -> int | None:
        """Ids that it can read: rows of its embedding; None where the network does not tell."""
        embedding = getattr(self.network, "get_input_embeddings", lambda: None)()
        count = getattr(embedding, "num_embeddings", None)
        return int(count) if count else None

    def _encoded(self, text: str | Encoding) -> Encoding:
        found = self.tokenizer.encode(text) if isinstance(text, str) else text
        check_ids(found.ids, self.entries, self.name)
        return found

    def _logits(self, encodings: Sequence[Encoding], progress: Progress | None) -> Iterator[tuple[int, int, Any]]:
        """Text, place of its first row (the start token counts) and logits [rows, V], window by window; those of one
        text in order."""
        import torch

        lead = [] if self.start is None else [self.start]
        ids = [[*lead, *encoding.ids.tolist()] for encoding in encodings]
        done, total = 0, sum(map(len, ids))
        try:
            for batch in _batches(sorted(self._windows(ids), key=lambda w: w.begin - w.end)):
                logits = self._read([ids[w.text][w.begin : w.end] for w in batch])
                for row, w in zip(logits, batch, strict=True):
                    yield w.text, w.done, row[w.done - w.begin : w.end - w.begin]
                    done += w.end - w.done
                del logits, row
                if progress is not None:
                    progress(done, total)
        except torch.OutOfMemoryError as error:
            raise ModelError(f"{self.name!r} ran out of memory on this text; use top_k, or device='cpu'") from error

    def _windows(self, ids: list[list[int]]) -> Iterator[_Window]:
        for text, tokens in enumerate(ids):
            done = 0
            while done < len(tokens):
                begin = self.context_start(done)
                end = min(len(tokens), begin + self.window)
                yield _Window(text, begin, done, end)
                done = end

    def _read(self, rows: list[list[int]]) -> Any:
        """Logits [rows, length, V]; shorter rows are padded at the end, which what stands before does not see."""
        import torch

        longest = max(map(len, rows))
        tokens = torch.zeros((len(rows), longest), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for r, row in enumerate(rows):
            tokens[r, : len(row)] = torch.tensor(row)
            mask[r, : len(row)] = 1
        device = self.network.device
        padded = {} if mask.all() else {"attention_mask": mask.to(device)}
        with torch.no_grad():  # inference tensors could not be sharded again
            return self.network(tokens.to(device), **padded).logits

    def _size(self, top_k: int) -> int:
        kept = min(self.tokenizer.size, int(self.network.get_output_embeddings().weight.shape[0]))
        return min(top_k, kept) if top_k else kept


def check_ids(ids: NDArray[np.integer[Any]], entries: int | None, name: str) -> None:
    """Raise `ModelError` where the model `name` has no row for an id: on a CPU an index would fail, on a GPU the whole
    process."""
    if entries is not None and len(ids) and (most := int(ids.max())) >= entries:
        raise ModelError(
            f"the tokenizer gave the id {most}, and {name!r} reads {entries:,} ids, 0 to {entries - 1}: tokenizer and "
            "weights do not belong together, or tokens were added without resizing the model's embedding"
        )


@dataclass(frozen=True)
class _Window:
    """Tokens `begin` to `end` of a text are read at once, those before `done` for context only."""

    text: int
    begin: int
    done: int
    end: int


def _batches(windows: list[_Window]) -> Iterator[list[_Window]]:
    """Windows, longest first, in batches of at most `BATCH_TOKENS` with their padding; one text's stay in order."""
    batch: list[_Window] = []
    for window in windows:
        longest = batch[0].end - batch[0].begin if batch else 0
        if batch and longest * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _stack(parts: list[TopK], k: int, has_start: bool) -> TopK:
    """All rows one after the other, with an empty one in front where the model predicts no first token."""
    if not parts:
        return TopK(None, np.zeros((0, k), dtype=np.float32), k).with_empty_row()
    ids = [part.ids for part in parts if part.ids is not None]
    logprobs = np.concatenate([part.logprobs for part in parts])
    top = TopK(np.concatenate(ids) if ids else None, logprobs, parts[0].width)
    return top if has_start else top.with_empty_row()
