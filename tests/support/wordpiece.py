"""WordPiece tokenizers of given pieces: each takes the longest piece that fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, pre_tokenizers

from fusion_core import Tokenizer, load_tokenizer


def wordpiece(
    path: Path, pieces: Sequence[str], prefix: str = "", cutter: pre_tokenizers.PreTokenizer | None = None
) -> Tokenizer:
    """Written to `path`; `prefix` marks pieces that go on with a word, and without a `cutter` a text is one word."""
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(["[UNK]", *pieces]))}
    built = HfTokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]", continuing_subword_prefix=prefix))
    if cutter is not None:
        built.pre_tokenizer = cutter
    built.decoder = decoders.WordPiece(prefix=prefix, cleanup=False)
    built.save(str(path))
    return load_tokenizer(path)
