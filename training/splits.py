"""The documents of a corpus kept apart: to train on, to validate on, held out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

from fusion_core.errors import ConfigError
from training.config import Config
from training.corpus import Document, documents

SPLITS = ("train", "validation", "held_out")
NO_VALIDATION = (
    "no document came to be for validation: there will be no bits per byte to watch, and no early stopping. Take more "
    "documents, a larger corpus.validation, or the other corpus.split (order needs several documents of each domain)"
)


@dataclass(frozen=True)
class Documents:
    """The documents of one split of a config's corpus, read anew each time: they need not fit into memory."""

    config: Config
    split: str

    def __iter__(self) -> Iterator[Document]:
        for document, split in _assigned(self.config, self._sizes):
            if split == self.split:
                yield document

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        return sum(1 for _ in self)

    @cached_property
    def _sizes(self) -> Counter[str]:
        """Documents by domain, for which the corpus is read once more; only counted where the order decides."""
        if self.config.corpus.split != "order":
            return Counter()
        return Counter(document.domain for document in _corpus(self.config))


@dataclass(frozen=True)
class Splits:
    """A corpus in its parts. What is trained on is streamed; the smaller parts are kept, for they are read often."""

    train: Documents
    validation: list[Document]
    held_out: list[Document]


def split_corpus(config: Config) -> Splits:
    """All documents of the config's corpus by split; raises `ConfigError` where none is left to train on."""
    train = Documents(config, "train")
    kept: dict[str, list[Document]] = {"validation": [], "held_out": []}
    total = 0
    for document, split in _assigned(config, train._sizes):
        total += 1
        if split in kept:
            kept[split].append(document)
    if total == sum(map(len, kept.values())):
        raise ConfigError(f"none of the {total} documents is left to train on; raise corpus.limit or the split")
    return Splits(train, **kept)


def _corpus(config: Config) -> Iterator[Document]:
    corpus = config.corpus
    at = corpus.hub
    hub = None if at is None else (at.name, at.subset, at.split, at.column)
    found: Iterable[Document] = documents(corpus.name, corpus.files, hub)
    if corpus.paragraphs:
        found = _paragraphs(found)
    if corpus.part is not None:
        number, of = map(int, corpus.part.split("/"))
        found = (one for one in found if int.from_bytes(_hash(one)[8:16], "big") % of == number - 1)
    return islice(found, corpus.limit or None)


def _assigned(config: Config, sizes: Counter[str]) -> Iterator[tuple[Document, str]]:
    corpus = config.corpus
    # Rounded: in floats, 1 - 0.2 - 0.1 is more than 0.7, and document 7 of 10 would be trained on.
    train = round(1 - corpus.validation - corpus.held_out, 12)
    held_out = round(1 - corpus.held_out, 12)
    seen: Counter[str] = Counter()
    for document in _corpus(config):
        if corpus.split == "order":
            at = seen[document.domain] / sizes[document.domain]
            seen[document.domain] += 1
        else:
            at = int.from_bytes(_hash(document)[:8], "big") / 2**64
        yield document, "train" if at < train else "validation" if at < held_out else "held_out"


def _hash(document: Document) -> bytes:
    """Of a document's name; the parts of a long one stay together."""
    return hashlib.sha256((document.whole or document.name).encode("utf-8", "surrogatepass")).digest()


def _paragraphs(found: Iterable[Document]) -> Iterator[Document]:
    for document in found:
        pieces = [piece.strip() for piece in document.text.splitlines() if piece.strip()]
        for n, piece in enumerate(pieces):
            yield replace(document, name=f"{document.name}:{n}", text=piece, whole=None)
