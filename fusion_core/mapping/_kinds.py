"""The kinds of vocabulary mapping by name, and the one door to them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from fusion_core.alignment import COSTS, METHODS
from fusion_core.errors import MappingError
from fusion_core.mapping import _storage
from fusion_core.mapping._entries import FORMS, Table, identical
from fusion_core.mapping._first_token import first_token
from fusion_core.mapping._mapping import Provenance, VocabularyMapping, from_best
from fusion_core.mapping._nearest import Progress
from fusion_core.mapping._soft import cooccurrence, soft
from fusion_core.mapping._statistical import statistical
from fusion_core.tokenizers import Tokenizer
from fusion_core.workspace import cache_path, digest

# Of what is computed: mappings that an older program kept are made anew.
_REVISION = "5"

# Each kind and what to say about it; `--help` and the app's menu read this table.
KINDS: dict[str, str] = {
    "hard": "identical entries only; the rest is lost",
    "soft": "FuseLLM's MinED: identical, else the entry of least edit distance",
    "cooccurrence": "as soft, ties decided by similar neighbours on a corpus",
    "statistical": "FuseChat's: weights from how often an alignment links two ids on a corpus",
    "first-token": "the first token of the target's encoding of the entry",
}
NEEDS_TEXTS = ("cooccurrence", "statistical")
HAS_PIECE_FORM = ("hard", "soft", "cooccurrence")

_log = logging.getLogger(__name__)


def _version() -> str:
    try:
        return version("fusescope")
    except PackageNotFoundError:
        return "0"


def map_vocabulary(
    source: Tokenizer,
    target: Tokenizer,
    *,
    kind: str = "soft",
    form: str = "bytes",
    texts: Sequence[str] | None = None,
    method: str = "span",
    cost: str = "edit",
    progress: Progress | None = None,
    cache: bool = True,
) -> VocabularyMapping:
    """Where each entry of `source` goes in `target`.

    Args:
        kind: a name in `KINDS`.
        form: `bytes` compares canonical bytes; `pieces` compares raw pieces with the space marker swapped, as FuseLLM
            does, special tokens included (`hard`, `soft` and `cooccurrence` only).
        texts: the corpus, for `cooccurrence` and `statistical`.
        method, cost: the alignment that `statistical` counts the links of.
        progress: called as `progress(done, total)`; an exception from it stops the computation.
        cache: keep the result in the workspace folder, and take it from there.

    Raises:
        MappingError: an unknown kind or form, or a kind that needs texts without any.
    """
    if kind not in KINDS:
        raise MappingError(f"unknown kind {kind!r}; choose one of {', '.join(KINDS)}")
    if form not in FORMS:
        raise MappingError(f"unknown form {form!r}; choose one of {', '.join(FORMS)}")
    if form == "pieces" and kind not in HAS_PIECE_FORM:
        raise MappingError(f"{kind!r} has no form in pieces; only {', '.join(HAS_PIECE_FORM)} do")
    learned = kind in NEEDS_TEXTS
    if learned and not any(texts or ()):
        given = "those given are empty" if texts else "give some with texts=[...] (on the command line: --file)"
        raise MappingError(f"{kind!r} is learned from texts; {given}")
    if method not in METHODS or cost not in COSTS:
        raise MappingError(f"unknown alignment {method!r} with cost {cost!r}")
    corpus = digest(*(texts or ())) if learned else ""
    how = f"{method}/{cost}" if kind == "statistical" else ""
    provenance = Provenance(
        kind, form, source.name, target.name, source.fingerprint, target.fingerprint, corpus, _version()
    )
    made_by = f"{_storage.VERSION}.{_REVISION}/{provenance.version}"
    key = digest(kind, form, source.fingerprint, target.fingerprint, corpus, how, made_by)
    path = cache_path("mapping", key[:32], ".parquet")
    if cache and path.exists():
        try:
            return _storage.load(path, source, target)
        except MappingError as error:
            _log.warning("a cached mapping was damaged and is computed again: %s", error)
    if kind == "statistical":
        mapping = statistical(provenance, source, target, texts or (), method, cost, progress)
    else:
        table = _table(source, target, kind, form, texts or (), progress, cache)
        mapping = from_best(provenance, table.best, table.distance, table.ties, target.size)
    if cache:
        try:
            _storage.save(mapping, path)
        except MappingError as error:
            _log.warning("the mapping is not cached: %s", error)
    return mapping


def _table(
    source: Tokenizer,
    target: Tokenizer,
    kind: str,
    form: str,
    texts: Sequence[str],
    progress: Progress | None,
    cache: bool,
) -> Table:
    if kind == "hard":
        return identical(source, target, form)
    if kind == "soft":
        return soft(source, target, form, progress)
    if kind == "cooccurrence":
        base = map_vocabulary(source, target, kind="soft", form=form, progress=progress, cache=cache)
        return cooccurrence(Table(base.best.copy(), base.distance, base.ties), source, target, form, texts)
    return first_token(source, target, progress)
