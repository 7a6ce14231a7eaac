"""What a run would take, before it is started: documents, steps, disk and memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rich.filesize import decimal

from fusion_core import load_tokenizer
from fusion_core.errors import ConfigError
from fusion_core.models import BATCH_TOKENS, ModelSize, default_dtype, model_size
from training.config import DEFAULTS, Config
from training.data import plan
from training.precision import notice
from training.splits import NO_VALIDATION, Splits
from training.stages.examples import windows

# Bytes of text that are tokenised; the tokens of what follows are reckoned from theirs.
_READ = 2_000_000
# What Python and its libraries take before a model is there.
_RUNTIME = 900_000_000
# Bytes of a weight while it is trained in full: itself, its gradient, and AdamW's two means.
_TRAINED, _KEPT = 16, 4
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
# The longest that a normaliser makes of a text: U+FDFA, of three bytes, is 33 under NFKC.
_TOKENS_A_BYTE = 11
# The Trainer's name for keeping a layer's inputs alone, from transformers 5.24 on and before.
_CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")


@dataclass(frozen=True)
class Estimate:
    """What a config's run would do, about.

    Attributes:
        documents: to train on, for validation, held out.
        tokens: of the target, in the documents to train on.
        steps: of the optimizer.
        stages: those that make the data, each with whether all of it is there already; then the config's kind.
        distributions, checkpoints: bytes on disk, of the data and of what training saves.
        memory: the most that is needed at once while a model is asked or trained, bytes by what is done.
        has: bytes of memory of the device that does it, None where it is not known.
        notice: what will be done otherwise than the config says or means; empty where nothing is.
    """

    documents: tuple[int, int, int]
    tokens: int
    steps: int
    stages: tuple[tuple[str, bool], ...]
    distributions: int
    checkpoints: int
    memory: dict[str, int]
    has: int | None
    notice: str = ""

    @property
    def shortage(self) -> str:
        """What to do where memory does not suffice, as far as that is known; empty where it does."""
        if self.has is None or max(self.memory.values(), default=0) <= self.has:
            return ""
        return (
            f"This machine has {decimal(self.has)} of memory. Less is needed with a lower per_device_train_batch_size "
            "(and gradient_accumulation_steps), a lower max_length, gradient_checkpointing, or lora."
        )

    @property
    def table(self) -> list[tuple[str, str, str]]:
        """In words: each stage, whether it is done already, and the memory that it takes."""
        return [
            (
                stage,
                "there already" if cached else "to be done",
                decimal(self.memory[stage]) if stage in self.memory else "little",
            )
            for stage, cached in self.stages
        ]


def estimate(config: Config, splits: Splits) -> Estimate:
    """What training on `config` would take.

    Raises:
        ModelError: a model is not there.
        ConfigError: its examples are longer than the target can read.
        TrainingError: the Trainer refuses its arguments, or they leave no batch to train on.
    """
    trains = config.kind == "train"
    if trains:
        # Only here: a dry run asks, and nothing is made.
        from training.arguments import arguments_of, check_batches

        arguments = arguments_of(config, bool(splits.validation))
    lengths = list(_lengths(config, splits))
    chosen = {**DEFAULTS, **config.training}
    examples = sum(len(list(windows(length, config.max_length))) for length in lengths)
    if trains:
        check_batches(arguments, examples)
    limit, epochs = int(chosen.get("max_steps", -1)), float(chosen["num_train_epochs"])
    micro, gathered = int(chosen["per_device_train_batch_size"]), int(chosen.get("gradient_accumulation_steps", 1))
    batches = examples // micro if chosen.get("dataloader_drop_last") else -(-examples // micro)
    steps = limit if limit > 0 else math.ceil(max(1, -(-batches // gathered)) * epochs)
    tokens = sum(lengths)
    asked = list(dict.fromkeys([config.target, *(source.model for source in config.sources)])) if config.sources else []
    sizes = {name: model_size(name) for name in {config.target, *asked}}
    if trains:
        check_length(config, splits)
    memory = {f"teach {name}": _asking(config, sizes[name]) for name in asked} if trains else {}
    if trains:
        memory["train"] = _training(config, sizes[config.target], max(lengths, default=0))
        if config.online:  # all models at once
            memory = {"train": sum(memory.values()) - _RUNTIME * len(asked)}
    made = plan(config, splits.train) if trains and not config.online else []
    saved = 0 if chosen["save_strategy"] == "no" or not trains else int(chosen["save_total_limit"] or math.ceil(epochs))
    return Estimate(
        (len(splits.train), len(splits.validation), len(splits.held_out)),
        tokens,
        steps if trains else 0,
        (*((step.title, step.cached) for step in made), (config.kind, False)),
        # Three bytes an entry and what a row holds besides, taught and carried over; nothing is kept when online.
        0 if config.online or not trains else tokens * len(asked) * 2 * (3 * config.teach.top_k + 4),
        # A checkpoint holds the weights and the optimizer's two means; at the end the weights are saved once more.
        sizes[config.target].parameters * (12 * saved + 4),
        memory,
        _memory(config),
        " ".join(_notices(config, splits)) if trains else "",
    )


def _notices(config: Config, splits: Splits) -> Iterator[str]:
    if instead := notice(config.training):
        yield instead
    if config.corpus.validation and not splits.validation:
        yield f"Note: {NO_VALIDATION}."


def check_length(config: Config, splits: Splits) -> None:
    """Raise `ConfigError` where an example, with the token that begins a text, is longer than the target can read."""
    positions = model_size(config.target).positions
    tokenizer = load_tokenizer(config.target)
    lead = int(tokenizer.adds_bos and "bos" in tokenizer.roles)
    if not positions or config.max_length + lead <= positions:
        return
    for document in splits.train:
        # Also after normalisation no byte makes more tokens than that.
        may_be_longer = len(document.text.encode("utf-8", "surrogatepass")) * _TOKENS_A_BYTE > positions - lead
        if may_be_longer and len(tokenizer.encode(document.text)) > positions - lead:
            raise ConfigError(
                f"max_length is {config.max_length}, and {config.target} reads {positions} tokens at most"
                f"{', of which one begins the text' if lead else ''}; set max_length to {positions - lead} or less"
            )


def _lengths(config: Config, splits: Splits) -> Iterator[int]:
    """Target tokens of each document to train on."""
    tokenizer = load_tokenizer(config.target)
    size = tokens = 0
    for document in splits.train:
        length = len(document.text.encode("utf-8", "surrogatepass"))
        if size < _READ:
            count = len(tokenizer.encode(document.text[:_READ]))
            size, tokens = size + min(length, _READ), tokens + count
        if length > _READ or size >= _READ:
            count = math.ceil(length * tokens / size)
        yield count


def _asking(config: Config, size: ModelSize) -> int:
    width = _WIDTHS[config.teach.dtype or default_dtype(config.teach.device)]
    # Logits, and their log-probabilities in float32 while the best are chosen.
    return _RUNTIME + size.parameters * width + BATCH_TOKENS * size.width * (width + 4)


def _training(config: Config, size: ModelSize, longest: int) -> int:
    batch = int({**DEFAULTS, **config.training}["per_device_train_batch_size"])
    tokens = batch * min(config.max_length, longest)
    # What a block keeps for its gradient: normed and projected states, and the feed-forward part's.
    block = 8 * size.hidden + 4 * size.intermediate
    layers = 1 if any(config.training.get(name) for name in _CHECKPOINTING) else size.layers
    kept = tokens * 4 * (layers * block + size.layers * size.hidden)
    logits = tokens * size.width * 4 * 2  # and their gradient
    return _RUNTIME + size.parameters * (_KEPT if config.lora else _TRAINED) + kept + logits


def _memory(config: Config) -> int | None:
    import psutil
    import torch

    device = "cpu" if config.training.get("use_cpu") else config.teach.device
    if torch.cuda.is_available() and device != "cpu":
        return int(torch.cuda.mem_get_info()[1])
    return int(psutil.virtual_memory().total)
