"""GGUF files, written as the converters write them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import tiny


def write_gguf(path: Path, model: str = "gpt2", *, pre: str = "gpt-2", padding: int = 0) -> Path:
    """A small GGUF file with nothing but a tokenizer, with `padding` unused rows behind its entries."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    if model == "gpt2":
        source = json.loads(tiny.train("byte-bpe", path.parent).read_bytes())["model"]
        tokens = sorted(source["vocab"], key=source["vocab"].__getitem__)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        types = [3 if token in ("<s>", "</s>") else 1 for token in tokens]
        unused = [f"[PAD{len(tokens) + n}]" for n in range(padding)]
        writer.add_token_list([*tokens, *unused])
        writer.add_token_types([*types, *[5] * padding])
        writer.add_token_merges([" ".join(pair) for pair in source["merges"]])
    else:
        tokens = [
            "<unk>",
            "<s>",
            "</s>",
            *(f"<0x{b:02X}>" for b in range(256)),
            "▁",
            "▁the",
            "th",
            "e",
            "t",
            "h",
            "fox",
        ]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([-float(n) for n in range(len(tokens))])
        writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259))
    writer.add_bos_token_id(0 if model == "gpt2" else 1)
    writer.add_eos_token_id(1 if model == "gpt2" else 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
