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
class _Corpus:
    """A config's corpus with the split of each of its documents."""

    config: Config

    def __iter__(self) -> Iterator[tuple[Document, str]]:
        corpus = self.config.corpus
        # Rounded: in floats, 1 - 0.2 - 0.1 is more than 0.7, and document 7 of 10 would be trained on.
        train = round(1 - corpus.validation - corpus.held_out, 12)
        held_out = round(1 - corpus.held_out, 12)
        seen: Counter[str] = Counter()
        for document in self._documents():
            if corpus.split == "order":
                at = seen[document.domain] / self._sizes[document.domain]
                seen[document.domain] += 1
            else:
                at = int.from_bytes(_hash(document)[:8], "big") / 2**64
            yield document, "train" if at < train else "validation" if at < held_out else "held_out"

    @cached_property
    def _sizes(self) -> Counter[str]:
        """Documents by domain, for which the corpus is read once more; only counted where the order decides."""
        return Counter(document.domain for document in self._documents())

    def _documents(self) -> Iterator[Document]:
        corpus = self.config.corpus
        at = corpus.hub
        hub = None if at is None else (at.name, at.subset, at.split, at.column)
        found: Iterable[Document] = documents(corpus.name, corpus.files, hub)
        if corpus.paragraphs:
            found = _paragraphs(found)
        if corpus.part is not None:
            number, of = map(int, corpus.part.split("/"))
            found = (one for one in found if int.from_bytes(_hash(one)[8:16], "big") % of == number - 1)
        return islice(found, corpus.limit or None)


@dataclass(frozen=True)
class Documents:
    """The documents to train on, read anew each time: they need not fit into memory.

    Attributes:
        apart: the hashes of texts that are kept apart; a document of the same text under another name is left out.
    """

    corpus: _Corpus
    apart: frozenset[bytes]

    def __iter__(self) -> Iterator[Document]:
        for document in self._all():
            if _text_hash(document) not in self.apart:
                yield document

    def __len__(self) -> int:
        return self._read[0][False]

    @property
    def copies(self) -> int:
        """How many are left out."""
        return self._read[0][True]

    @property
    def identity(self) -> str:
        """What tells these texts, in their order, from others."""
        return self._read[1]

    def _all(self) -> Iterator[Document]:
        return (document for document, split in self.corpus if split == "train")

    @cached_property
    def _read(self) -> tuple[Counter[bool], str]:
        """Documents by whether they are left out, and the identity of those that are not."""
        counts: Counter[bool] = Counter()
        state = hashlib.sha256()
        for document in self._all():
            one = _text_hash(document)
            counts[one in self.apart] += 1
            if one not in self.apart:
                state.update(one)
        return counts, state.hexdigest()


@dataclass(frozen=True)
class Splits:
    """A corpus in its parts. What is trained on is streamed; the smaller parts are kept, for they are read often."""

    train: Documents
    validation: list[Document]
    held_out: list[Document]

    @property
    def identities(self) -> dict[str, str]:
        """By split what tells its texts, in their order, from others."""
        return {
            "train": self.train.identity,
            "validation": identity_of(self.validation),
            "held_out": identity_of(self.held_out),
        }

    def trained_on(self, some: Iterable[Document]) -> int:
        """How many of `some` have a text that is trained on."""
        asked = Counter(map(_text_hash, some))
        return sum(asked.pop(_text_hash(document), 0) for document in self.train)


def split_corpus(config: Config) -> Splits:
    """All documents of the config's corpus by split; raises `ConfigError` where none is left to train on.

    No text is in two of them: of documents that are copies of each other word for word, held-out ones go before those
    to validate on, and these before those to train on.
    """
    corpus = _Corpus(config)
    kept: dict[str, list[Document]] = {"validation": [], "held_out": []}
    total = 0
    for document, split in corpus:
        total += 1
        if split in kept:
            kept[split].append(document)
    if total == sum(map(len, kept.values())):
        raise ConfigError(
            f"none of the {total} documents is left to train on (those of one name are kept together); raise "
            "corpus.limit or the split"
        )
    held_out = set(map(_text_hash, kept["held_out"]))
    kept["validation"] = [one for one in kept["validation"] if _text_hash(one) not in held_out]
    apart = held_out | set(map(_text_hash, kept["validation"]))
    train = Documents(corpus, frozenset(apart))
    if next(iter(train), None) is None:  # which reads no further than the first one
        raise ConfigError(f"none of the {total} documents is left to train on: the texts of all are kept apart too")
    return Splits(train, **kept)


def identity_of(documents: Iterable[Document]) -> str:
    """What tells these texts, in their order, from others."""
    return hashlib.sha256(b"".join(map(_text_hash, documents))).hexdigest()


def _hash(document: Document) -> bytes:
    """Of a document's name; the parts of a long one stay together."""
    return hashlib.sha256((document.whole or document.name).encode("utf-8", "surrogatepass")).digest()


def _text_hash(document: Document) -> bytes:
    return hashlib.sha256(document.text.encode("utf-8", "surrogatepass")).digest()


def _paragraphs(found: Iterable[Document]) -> Iterator[Document]:
    for document in found:
        pieces = [piece.strip() for piece in document.text.split("\n") if piece.strip()]
        for n, piece in enumerate(pieces):
            yield replace(document, name=f"{document.name}:{n}", text=piece, whole=None)
