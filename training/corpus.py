"""Texts to work on, one document at a time: local files, or a corpus that is always there."""

from __future__ import annotations

import ast
import io
import json
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from fusion_core.errors import TextError
from fusion_core.text import utf8

# A longer document is cut at a line's end into parts `name#2`, `name#3` ...
PART_BYTES = 131_072


@dataclass(frozen=True)
class Document:
    """A text with a name, and the domain that results are broken down by; `whole` is the name of the document that this
    is a part of, if it is one."""

    name: str
    domain: str
    text: str
    whole: str | None = None


@dataclass(frozen=True)
class Corpus:
    """Where a named corpus comes from, and what to say about it."""

    read: Callable[[], Iterator[Document]]
    about: str


def _modules() -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if {"site-packages", "test", "tests", "__pycache__"} & set(parts) or parts[0].startswith("lib-"):
            continue
        try:
            yield ".".join(parts), path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue


def _prose(code: str) -> str:
    """The docstrings and comments of a module, in the order of the source."""
    found: list[tuple[int, str]] = []
    try:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    found.append((node.body[0].lineno, text))
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.COMMENT and token.string.strip("#!- "):
                found.append((token.start[0], token.string.lstrip("# ")))
    except (SyntaxError, tokenize.TokenError):
        return ""
    return "\n".join(text for _, text in sorted(found))


def _docstrings() -> Iterator[Document]:
    for name, code in _modules():
        text = _prose(code)
        if len(text) >= 200:
            yield Document(name, "docstrings", text)


def _code() -> Iterator[Document]:
    for name, code in _modules():
        if len(code) >= 200:
            yield Document(name, "code", code)


CORPORA: dict[str, Corpus] = {
    "stdlib-docstrings": Corpus(_docstrings, "docstrings and comments of Python's standard library, one per module"),
    "stdlib-code": Corpus(_code, "the modules of Python's standard library as they are"),
}


def read_text(path: Path) -> str:
    """A UTF-8 file's text, less a byte order mark; raises `TextError` that says what is wrong with it."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TextError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8 (byte {error.start}); convert it first, e.g. with iconv") from error


def _records(path: Path) -> Iterator[dict[str, object]]:
    if path.suffix.lower() == ".parquet":
        try:
            for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
                yield from batch.to_pylist()
        except (OSError, ValueError, pa.ArrowException) as error:  # a text may be no UTF-8
            raise TextError(f"cannot read {path}: {error}") from error
        return
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        record = json.loads(line)
                    except (ValueError, RecursionError) as error:
                        raise TextError(f"{path}, line {number}: not JSON ({error})") from error
                    yield record if isinstance(record, dict) else {}
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"cannot read {path}: {error}") from error


def from_file(path: Path, label: str, domain: str) -> Iterator[Document]:
    """The documents of a file: `.jsonl`, `.ndjson` and `.parquet` hold one per row in the column `text` (with `name`
    and `domain` if there; rows of one name are one document's); any other file is one document.

    Args:
        label: what documents are named by that have no name of their own.
        domain: of those that have none of their own.

    Raises:
        TextError: the file cannot be read, is no file, not UTF-8 or a table of another form, or a row has no text.
    """
    if path.exists() and not path.is_file():
        raise TextError(
            f"{path} is a folder, or a pipe, which a corpus cannot be: it is read more than once; give a file"
        )
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".json"):
        raise TextError(f"{path}: texts in columns are read from .jsonl or .parquet; convert it, or name it .txt")
    if suffix not in (".jsonl", ".ndjson", ".parquet"):
        yield Document(label, domain, read_text(path))
        return
    for number, record in enumerate(_records(path), 1):
        text = record.get("text")
        if not isinstance(text, str):
            raise TextError(f"{path}, row {number}: no column 'text' that holds a text")
        try:
            utf8(text)
        except TextError as error:
            raise TextError(f"{path}, row {number}: {error}") from error
        yield Document(str(record.get("name") or f"{label}:{number}"), str(record.get("domain") or domain), text)


def _parts(document: Document) -> Iterator[Document]:
    data = document.text.encode("utf-8", "surrogatepass")
    begin, number = 0, 1
    while len(data) - begin > PART_BYTES:
        end = data.rfind(b"\n", begin, begin + PART_BYTES) + 1
        if end <= begin:
            end = begin + PART_BYTES
            while data[end] & 0xC0 == 0x80:  # not inside a character
                end -= 1
        name = document.name if number == 1 else f"{document.name}#{number}"
        yield Document(name, document.domain, data[begin:end].decode("utf-8", "surrogatepass"), document.name)
        begin, number = end, number + 1
    if begin < len(data):
        name = document.name if number == 1 else f"{document.name}#{number}"
        yield Document(name, document.domain, data[begin:].decode("utf-8", "surrogatepass"), document.name)


def from_hub(name: str, subset: str | None, split: str, column: str) -> Iterator[Document]:
    """The rows of a data set of the Hugging Face hub (or of a folder in its form), streamed.

    Raises:
        TextError: `datasets` is not installed, the data set cannot be read, or a row has no text.
    """
    try:
        import datasets
    except ImportError as error:
        raise TextError("hub data sets need a library: pip install 'fusescope[hub]'") from error
    try:
        rows = datasets.load_dataset(name, subset, split=split, streaming=True)
        for number, row in enumerate(rows):
            text = row.get(column)
            if not isinstance(text, str):
                raise TextError(
                    f"{name}, row {number}: no column {column!r} that holds a text; it has {', '.join(row)}"
                )
            yield Document(str(row.get("name") or f"{name}:{number}"), str(row.get("domain") or name), text)
    except TextError:
        raise
    except Exception as error:  # whatever the hub's client and its readers raise
        raise TextError(
            f"cannot read the data set {name!r}: {str(error).strip()[:300] or type(error).__name__}"
        ) from error


def _labels(files: Sequence[Path]) -> list[str]:
    """The files' names, of those that share one with as many folders before it as it takes to tell them apart."""
    # However they are spelled: a finished run's are read as absolute ones.
    parts = [path.resolve().parts for path in files]
    found = [path.name for path in files]
    alike, depth = list(range(len(files))), 1
    while alike:
        counts = Counter(parts[n][-depth:] for n in alike)
        for n in alike:
            found[n] = "/".join(parts[n][-depth:])
        alike = [n for n in alike if counts[parts[n][-depth:]] > 1 and len(parts[n]) > depth]
        depth += 1
    return found


def documents(
    corpus: str | None = None,
    files: Sequence[Path] = (),
    hub: tuple[str, str | None, str, str] | None = None,
) -> Iterator[Document]:
    """All documents of a named corpus, of `files` and of a hub data set (the arguments of `from_hub`), empty ones left
    out and long ones in parts of `PART_BYTES`.

    Raises:
        TextError: an unknown corpus, nothing named at all, or a file that cannot be read.
    """
    if corpus is not None and corpus not in CORPORA:
        raise TextError(f"unknown corpus {corpus!r}; choose one of {', '.join(CORPORA)}, or give files")
    if corpus is None and not files and hub is None:
        raise TextError(f"no texts: give --file, or --corpus with one of {', '.join(CORPORA)}")
    if corpus is not None:
        for document in CORPORA[corpus].read():
            yield from _parts(document)
    for path, label in zip(files, _labels(files), strict=True):
        # As the label tells files of one name apart, so that each has its own share of every split.
        for document in from_file(path, label, str(PurePosixPath(label).with_suffix(""))):
            yield from _parts(document)
    if hub is not None:
        for document in from_hub(*hub):
            yield from _parts(document)
