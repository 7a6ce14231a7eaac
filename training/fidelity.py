"""What a fidelity measurement runs on: live models on a text, or the documents of taught shards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion_core import Tokenizer, load_tokenizer
from fusion_core.errors import TransferError
from fusion_core.fidelity import divergence
from fusion_core.models import Model, load_model
from fusion_core.transfer import Predictions, Transfer, TransferIndex, build_index, marginal
from fusion_core.workspace import expanded
from training.console import progress
from training.shards import is_shards
from training.stages.teach import Taught, open_taught


@dataclass(frozen=True)
class Setting:
    """Sources and a target on the same texts.

    Attributes:
        model: the first source, None if it was read from shards.
        sources: per source its predictions on every text; `own`: the target's.
        indices: one per source.
    """

    model: Model | None
    sources: list[list[Predictions]]
    own: list[Predictions]
    indices: list[TransferIndex]


def prepare(sources: Sequence[str], target: str, text: str | None, top_k: int) -> Setting:
    """Run the models on `text`, or read what was taught; with progress bars.

    Args:
        sources, target: models, or (all of them) folders that `fusescope teach` wrote.
        top_k: entries to keep of each distribution, 0 for all that there are.

    Raises:
        TransferError: models and folders mixed, no text for models, a text for folders, or folders without a text in
            common.
    """
    names = [*sources, target]
    folders = [is_shards(expanded(name)) for name in names]
    if any(folders) and not all(folders):
        raise TransferError("models and folders of taught shards cannot be mixed: teach all of them, or none")
    if all(folders) and text is not None:
        raise TransferError("folders of taught shards bring their own texts: leave out --text and --file")
    if all(folders):
        return _read_taught(names, top_k)
    if text is None:
        raise TransferError("models need a text: give --text or --file")
    models: dict[str, Model] = {}
    found: dict[str, Predictions] = {}
    for name in dict.fromkeys(names):
        with progress(f"loading {name}"):
            models[name] = load_model(name)
        with progress(f"{name} reads the text") as update:
            found[name] = models[name].predict(text, top_k=top_k, progress=update)
    indices = _indices([models[name].tokenizer for name in sources], models[target].tokenizer)
    return Setting(models[sources[0]], [[found[name]] for name in sources], [found[target]], indices)


def _indices(sources: Sequence[Tokenizer], target: Tokenizer) -> list[TransferIndex]:
    with progress("indexing the vocabularies"):
        return [build_index(tokenizer, target) for tokenizer in sources]


def _read_taught(names: Sequence[str], top_k: int) -> Setting:
    taught: list[Taught] = [open_taught(expanded(name)) for name in names]
    places = [{doc.text: (shard, row) for doc, shard, row in one.listing()} for one in taught]
    texts = [text for text in places[-1] if all(text in there for there in places)]
    tokenizers = [load_tokenizer(one.model) for one in taught]
    sides: list[list[Predictions]] = [[] for _ in taught]
    with progress("reading taught shards") as update:
        for n, text in enumerate(texts):
            rows = [
                one.predictions(tokenizer, *place[text]).truncate(top_k)
                for one, tokenizer, place in zip(taught, tokenizers, places, strict=True)
            ]
            if all(len(row.encoding) >= 2 for row in rows):  # less holds nothing to predict
                for side, row in zip(sides, rows, strict=True):
                    side.append(row)
            update(n + 1, len(texts))
    if not texts:
        raise TransferError(f"{' and '.join(names)} have no text in common; teach both on the same corpus")
    if not sides[0]:
        raise TransferError("the texts are too short: none has at least two tokens on both sides")
    return Setting(None, sides[:-1], sides[-1], _indices(tokenizers[:-1], tokenizers[-1]))


@dataclass(frozen=True)
class Sampled:
    """`marginal` at random positions, ascending, and how long it took."""

    transfer: Transfer
    positions: NDArray[np.integer[Any]]
    seconds: float


def sample_marginal(setting: Setting, count: int, seed: int, passes: int | None = None) -> Sampled:
    """The gold standard at `count` random positions, or what so many levels of `passes` reach of it.

    Raises:
        TransferError: the text is too short, or there is no model to ask.
    """
    if setting.model is None:
        raise TransferError("marginal asks the source model, which taught shards cannot: name models and a text")
    source, own = setting.sources[0][0], setting.own[0]
    total = len(own.encoding) - 1
    if total < 1:
        raise TransferError("the text is too short: it needs at least two tokens on both sides")
    positions = np.sort(np.random.default_rng(seed).choice(total, size=min(count, total), replace=False))
    start = time.perf_counter()
    limit = {} if passes is None else {"passes": passes}
    with progress("marginal" if passes is None else f"{passes} levels of passes") as update:
        found = marginal(
            setting.model, source, own.encoding, setting.indices[0], positions, own=own, progress=update, **limit
        )
    return Sampled(found, positions, time.perf_counter() - start)


@dataclass(frozen=True)
class Price:
    """What a number of passes reaches: mean KL from the marginal in nats, top-1 agreement, seconds."""

    kl: float
    agreement: float
    seconds: float


def compare(reference: Sampled, partly: Sequence[Sampled]) -> list[Price]:
    """Each of `partly`, at the same positions, against `reference`."""
    rows = np.arange(len(reference.positions))
    return [Price(*divergence(reference.transfer, one.transfer, rows), one.seconds) for one in partly]
