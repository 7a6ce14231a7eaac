"""Tokenizers of every kind and models, made in a moment from a few sentences, as files that the loader reads."""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SENTENCES = (
    "the quick brown fox jumps over the lazy dog",
    "the dog naps while the fox runs over the hill",
    "naïve café, Ünïcödé façade; déjà vu",
    "東京 is 北京 and 서울; Москва и Київ",
    "numbers 123 456 7890, and 3.14 or 1e-10",
    "def f(x):\n    return x + 1\n",
    "🙂 🙃 👩‍🔬 tabs\tand\r\nlines",
) * 4

KINDS = (
    "byte-bpe",
    "byte-bpe-nfc",
    "byte-bpe-prefix",
    "wordpiece",
    "unigram-nfkc",
    "metaspace-bpe",
    "sentencepiece-bpe",
    "sentencepiece-unigram",
)
# Those whose canonical bytes spell every text exactly.
LOSSLESS = ("byte-bpe",)


def save_model(folder: Path, kind: str, seed: int, window: int = 64) -> Path:
    """A model of two layers with a tokenizer of `kind` trained here, as a folder; needs torch."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(exist_ok=True)
    train(kind, folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=440, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=window, initializer_range=0.4,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


def train(kind: str, folder: Path) -> Path:
    """Train a tokenizer of `kind` and save it; returns its file."""
    if kind.startswith("sentencepiece"):
        return _sentencepiece(kind, folder)
    tokenizer = _BUILDERS[kind]()
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def _byte_level(normalizer: normalizers.Normalizer | None = None, *, prefix: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    # No Hangul: such text is unknown.
    tokenizer.train_from_iterator([s.replace("서울", "") for s in SENTENCES], trainer)
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=180, special_tokens=["<s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def _metaspace() -> Tokenizer:
    """As Llama 2 and Gemma: spaces become the marker, and what is not in the vocabulary falls back to bytes."""
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=specials, show_progress=False)
    trained.train_from_iterator([s for s in SENTENCES if "🙂" not in s and "東京" not in s], trainer)
    import json

    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab=model["vocab"], merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = trained.normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


_BUILDERS = {
    "byte-bpe": _byte_level,
    "byte-bpe-nfc": lambda: _byte_level(normalizers.NFC()),
    "byte-bpe-prefix": lambda: _byte_level(prefix=True),
    "wordpiece": _wordpiece,
    "unigram-nfkc": _unigram,
    "metaspace-bpe": _metaspace,
}


def _sentencepiece(kind: str, folder: Path) -> Path:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        model_type=kind.removeprefix("sentencepiece-"),
        vocab_size=420,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity" if kind.endswith("bpe") else "nmt_nfkc",
        minloglevel=2,
    )
    path = folder / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path
