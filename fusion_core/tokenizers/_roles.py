"""Which entries are bos, eos, pad and unk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CONVENTIONS = {
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>", "<|startoftext|>", "[CLS]"),
    "eos": (
        "</s>",
        "<eos>",
        "<|end_of_text|>",
        "<｜end▁of▁sentence｜>",
        "<|endoftext|>",
        "<EOT>",
        "[SEP]",
    ),
    "pad": ("<pad>", "[PAD]", "<｜▁pad▁｜>", "<|pad|>", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>", "[UNK]"),
}


def guess_roles(
    pieces: Mapping[str, int], special: Mapping[str, int], config: Mapping[str, Any], unknown: str | None = None
) -> dict[str, int]:
    """Roles as the configuration states them (`bos_token`, ...), and where it says nothing, by conventional names.

    Args:
        pieces: piece -> id.
        special: the same for special tokens alone. Only these are found by convention: in some vocabularies
            `[CLS]` is ordinary text.
        config: the contents of a `tokenizer_config.json`; may be empty.
        unknown: the model's own unknown piece, if it names one.
    """
    roles: dict[str, int] = {}
    for role, conventional in _CONVENTIONS.items():
        stated = config.get(f"{role}_token")
        if isinstance(stated, Mapping):
            stated = stated.get("content")
        candidates = ([stated] if isinstance(stated, str) else []) + ([unknown] if role == "unk" and unknown else [])
        found = [pieces[piece] for piece in candidates if piece in pieces]
        found += [special[piece] for piece in conventional if piece in special]
        if found:
            roles[role] = found[0]
    return roles
