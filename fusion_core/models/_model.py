"""A loaded model: predictions over whole texts, in windows where a text is longer than the model reads at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fusion_core.distributions import TopK
from fusion_core.errors import ModelError
from fusion_core.mapping import Progress
from fusion_core.tokenizers import Encoding, Tokenizer
from fusion_core.transfer import Predictions

# Tokens that are read at once at most; the next window begins half of that further on, so that every position but the
# first ones has at least as many tokens of context.
WINDOW = 1024


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
    def window(self) -> int:
        """Tokens that are read at once."""
        longest = getattr(self.network.config, "max_position_embeddings", None)
        return min(WINDOW, int(longest)) if longest else WINDOW

    def predict(self, text: str | Encoding, *, top_k: int = 0, progress: Progress | None = None) -> Predictions:
        """Next-token distributions at every position of `text`.

        Args:
            top_k: entries to keep; 0 keeps the full softmax (n times the vocabulary in float32).
            progress: called as `progress(done, total)` with tokens.

        Raises:
            ModelError: memory does not suffice.
            DistributionError: the logits hold NaN.
        """
        import torch

        encoding = self.tokenizer.encode(text) if isinstance(text, str) else text
        lead = [] if self.start is None else [self.start]
        ids = torch.tensor([[*lead, *encoding.ids.tolist()]], dtype=torch.long)
        total, width = ids.shape[1], self.window
        parts: list[TopK] = []
        done = 0
        try:
            while done < total:
                begin = 0 if done == 0 else max(0, done - width // 2)
                end = min(total, begin + width)
                with torch.inference_mode():
                    logits = self.network(ids[:, begin:end].to(self.network.device)).logits[0, done - begin :]
                parts.append(TopK.from_logits(logits, top_k, size=self.tokenizer.size))
                done = end
                if progress is not None:
                    progress(done, total)
        except torch.OutOfMemoryError as error:
            raise ModelError(f"{self.name!r} ran out of memory on this text; use top_k, or device='cpu'") from error
        return Predictions(encoding, _stack(parts, self._size(top_k), self.start is not None), bool(lead), self.name)

    def _size(self, top_k: int) -> int:
        kept = min(self.tokenizer.size, int(self.network.get_output_embeddings().weight.shape[0]))
        return min(top_k, kept) if top_k else kept


def _stack(parts: list[TopK], k: int, has_start: bool) -> TopK:
    """All rows one after the other, with an empty one in front where the model predicts no first token."""
    width = parts[0].width if parts else max(k, 1)
    logprobs = [part.logprobs for part in parts]
    ids = [part.ids for part in parts if part.ids is not None]
    if not has_start:
        logprobs = [np.full((1, k), -np.inf, dtype=np.float32), *logprobs]
        if ids or (not parts and k < width):
            ids = [np.arange(k, dtype=np.int32)[None, :], *ids]
    return TopK(np.concatenate(ids) if ids else None, np.concatenate(logprobs), width)
