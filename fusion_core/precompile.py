"""Compile every loop now, so that nobody waits for it at a first look: `python -m fusion_core.precompile`.

The compiled code is kept beside the sources, and made again when a source or the processor changes.
"""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fusion_core.distributions import TopK
from fusion_core.tokenizers import Tokenizer, load_tokenizer
from fusion_core.workspace import VARIABLE

# Each of these leads to compiled code of its own; `fusellm-soft` alone ranks entries by their probability.
_TRANSFERS = ("byte-exact", "byte-exact-open", "boundary-first-token", "boundary-soft", "fusellm-soft")
_TEXT = "naïve café 🙂"


def precompile() -> None:
    """Run every compiled loop once on a text of a few bytes, with each type of argument that real input has."""
    from fusion_core.alignment import align
    from fusion_core.alignment._dtw import COSTS
    from fusion_core.mapping import map_vocabulary
    from fusion_core.mapping._nearest import all_nearest
    from fusion_core.packing import pack
    from fusion_core.transfer import Predictions, build_index, transfer

    with tempfile.TemporaryDirectory() as folder:
        source, target = (_tokenizer(Path(folder) / f"{merge}.json", merge) for merge in ("ca", "na"))
        align(source, target, text=_TEXT)
        for cost in COSTS:
            align(source, target, text=_TEXT, method="dtw", cost=cost)
        all_nearest(["x"], ["yy"])
        map_vocabulary(source, target, kind="soft", cache=False)
        index, encoding = build_index(source, target), target.encode(_TEXT)
        logits = np.random.default_rng(0).normal(size=(len(source.encode(_TEXT)) + 1, source.size)).astype(np.float32)
        own = np.zeros((len(encoding) + 1, target.size), dtype=np.float32)
        for k in (0, 4):
            predictions = Predictions(source.encode(_TEXT), TopK.from_logits(logits, k), has_start=True)
            for method in _TRANSFERS:
                targets = Predictions(encoding, TopK.from_logits(own, k), has_start=True)
                transfer(predictions, encoding, index, method=method, own=targets).best_first(4)
            if k:
                pack(predictions.top)
        if find_spec("torch"):
            import torch

            from fusion_core.models._selection import Selection

            Selection(source).keep(torch.from_numpy(logits[:-1]), 4, source.encode(_TEXT), 0)


def _tokenizer(path: Path, merge: str) -> Tokenizer:
    """A byte-level one with the 256 bytes and one entry more."""
    from tokenizers import Tokenizer as Built
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), merge]
    built = Built(models.BPE({piece: i for i, piece in enumerate(alphabet)}, [(merge[0], merge[1])]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.save(str(path))
    return load_tokenizer(path)


def main() -> None:
    """Compile, and leave nothing in the workspace."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[VARIABLE] = folder
        precompile()


if __name__ == "__main__":
    main()
