"""One door for every tokenizer: from a name to a `Tokenizer`."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fusion_core.errors import TokenizerError
from fusion_core.tokenizers import _cache, _gguf, _huggingface, _sentencepiece, _tiktoken
from fusion_core.tokenizers._definition import Definition
from fusion_core.tokenizers._panics import panics_told
from fusion_core.tokenizers._samples import SAMPLES
from fusion_core.tokenizers._tokenizer import Tokenizer
from fusion_core.workspace import digest, expanded

# Every form that a tokenizer's name can take, with an example; `fusescope tokenizers` prints this table.
NAME_FORMS: dict[str, str] = {
    "a sample": "qwen",
    "a hub id": "Qwen/Qwen3-0.6B",
    "a local folder": "./models/my-model",
    "a tokenizer.json": "./tokenizer.json",
    "a SentencePiece model": "./tokenizer.model",
    "a tiktoken encoding": "tiktoken:o200k_base",
    "a .tiktoken file": "./qwen.tiktoken",
    "a Mistral tekken.json": "./tekken.json",
    "a GGUF file": "./model.gguf",
}

# What is read of special tokens beside a tokenizer's file, the latter before the former, and tokens that are added.
_STATED = ("special_tokens_map.json", "tokenizer_config.json")
_ADDED = "added_tokens.json"
BESIDE = (*_STATED, _ADDED)

_log = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?\Z")
_HUB_PATTERNS = ("tokenizer*", *BESIDE, "tekken.json", "spiece.model", "vocab*", "merges.txt")
_MAX_BYTES = 256 << 20
_SPIECE = re.compile(r".*(\.model|\.model\.v\d+\w*|\.spm)\Z")


def load_tokenizer(name: str | Path, *, trust_remote_code: bool = False) -> Tokenizer:
    """The tokenizer called `name`.

    Args:
        name: a sample's name, a Hugging Face hub id, a local folder, or a file: `tokenizer.json`, SentencePiece
            `.model`, `.tiktoken`, `tekken.json`, `.gguf`; or `tiktoken:NAME` for one of tiktoken's encodings.
        trust_remote_code: allow a hub id or folder whose tokenizer exists as Python code only to run that code.
            Never needed for the other forms, and off unless asked for.

    Raises:
        TokenizerError: nothing of that name exists, or what exists cannot be read. Says what was tried.
    """
    label = str(name).strip()
    if not label:
        raise TokenizerError(
            f"no tokenizer was named; try {', '.join(list(SAMPLES)[:3])}, a hub id, a folder or a file"
        )
    if "\0" in label:
        raise TokenizerError("a tokenizer's name cannot hold a NUL character")
    try:
        with panics_told(f"cannot load tokenizer {label!r}"):
            definition = _find(label, trust_remote_code=trust_remote_code)
            fingerprint = digest(definition.identity)
            vocabulary = _cache.vocabulary(fingerprint, definition.vocabulary)
            adds_bos = definition.adds_bos and "bos" in vocabulary.roles
            return Tokenizer(label, definition.kind, fingerprint, vocabulary, definition.backend(), adds_bos)
    except TokenizerError as error:
        raise (
            error if repr(label) in str(error) else TokenizerError(f"cannot load tokenizer {label!r}: {error}")
        ) from error
    except OSError as error:
        raise TokenizerError(f"cannot load tokenizer {label!r}: {error.strerror or error}") from error
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        # What a damaged definition raises when its vocabulary or its backend is at last asked for.
        raise TokenizerError(
            f"cannot load tokenizer {label!r}: its definition is damaged ({type(error).__name__}: {error})"
        ) from error
    except (RecursionError, MemoryError) as error:
        raise TokenizerError(f"cannot load tokenizer {label!r}: the file is nested too deeply or too large") from error


def _find(name: str, *, trust_remote_code: bool) -> Definition:
    if name in SAMPLES:
        sample = SAMPLES[name]
        if sample.path is None:
            raise TokenizerError(f"the sample {name!r} is not installed; run: {sample.install}")
        return _from_file(sample.path)
    if name.startswith("tiktoken:"):
        return _tiktoken.define_named(name.removeprefix("tiktoken:"))
    path = expanded(name)
    if path.is_dir():
        return _from_folder(path, trust_remote_code=trust_remote_code)
    if path.exists():
        return _from_file(path, trust_remote_code=trust_remote_code)
    if _HUB_ID.match(name) and not name.endswith((".json", ".model", ".gguf", ".tiktoken")):
        return _from_hub(name, trust_remote_code=trust_remote_code)
    raise TokenizerError(f"there is no file or folder {name!r}, and it is no hub id{_suggestion(name)}")


def _suggestion(name: str) -> str:
    close = get_close_matches(name, SAMPLES, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; the samples are {', '.join(SAMPLES)}"


def _from_hub(name: str, *, trust_remote_code: bool) -> Definition:
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(name, allow_patterns=list(_HUB_PATTERNS), etag_timeout=5)
    except Exception as error:  # the client has many ways to say no
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TokenizerError(
            f"{name!r} is no sample, no file and no folder here, and the hub did not provide it "
            f"({type(error).__name__}: {reason[:160]}){_suggestion(name)}"
        ) from error
    return _from_folder(Path(folder), trust_remote_code=trust_remote_code)


def _from_folder(folder: Path, *, trust_remote_code: bool) -> Definition:
    """The best of what the folder holds: the most explicit description first."""
    for pattern in ("tokenizer.json", "tekken.json", "tekken*.json", "tokenizer.model", "spiece.model", "*.model"):
        found = sorted(folder.glob(pattern))
        if found:
            return _from_file(found[0], trust_remote_code=trust_remote_code)
    for pattern in ("*.tiktoken", "*.gguf"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return _from_file(found[0])
        if found:
            raise TokenizerError(f"{folder} holds several {pattern} files; name the one you mean")
    if (
        (folder / "tokenizer_config.json").exists()
        or (folder / "vocab.json").exists()
        or (folder / "vocab.txt").exists()
    ):
        return _from_transformers(folder, trust_remote_code=trust_remote_code)
    raise TokenizerError(f"{folder} holds none of tokenizer.json, tekken.json, *.model, *.tiktoken, *.gguf, vocab.*")


def _from_transformers(folder: Path, *, trust_remote_code: bool) -> Definition:
    """Older layouts (`vocab.json` and `merges.txt`, `vocab.txt`), which transformers knows how to convert."""
    import transformers

    try:
        loaded = transformers.AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=trust_remote_code, local_files_only=True
        )
        source = json.loads(loaded.backend_tokenizer.to_str())
    except Exception as error:  # transformers raises whatever the class at hand raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TokenizerError(f"transformers cannot read the tokenizer in {folder}: {reason[:200]}") from error
    return _huggingface.define(source, _config_beside(folder / "tokenizer.json"))


def _from_file(path: Path, *, trust_remote_code: bool = False) -> Definition:
    if not path.is_file():
        raise TokenizerError(f"{path} is not a file")
    name = path.name.lower()
    if name.endswith(".gguf"):
        return _gguf.define_file(path)
    if path.stat().st_size > _MAX_BYTES:
        raise TokenizerError(f"{path} is larger than any tokenizer ({path.stat().st_size >> 20} MB)")
    if path.stat().st_size == 0:
        raise TokenizerError(f"{path} is empty")
    data = path.read_bytes()
    readers: list[tuple[bool, Callable[[bytes], Definition]]] = [
        (name.endswith(".json"), lambda content: _from_json(content, path)),
        (name.endswith(".tiktoken"), lambda content: _tiktoken.define_file(content, path.name)),
        (bool(_SPIECE.match(name)), lambda content: _from_spiece(content, path, trust_remote_code=trust_remote_code)),
    ]
    for matches, reader in readers:
        if matches:
            try:
                return reader(data)
            except TokenizerError as error:
                raise TokenizerError(f"{path}: {error}") from error
    raise TokenizerError(
        f"{path} has none of the known endings (.json, .model, .tiktoken, .gguf); "
        "pickled tokenizers (.bin, .pt, .pkl) are never loaded"
    )


def _from_spiece(data: bytes, path: Path, *, trust_remote_code: bool) -> Definition:
    """From a SentencePiece model; where the files beside it add tokens to it, as fine-tuned models do, as transformers
    puts the two together, if it reads this very model."""
    config, pieces = _config_beside(path), _sentencepiece.pieces_of(data)
    stated = config.get("added_tokens_decoder")
    tokens = stated.values() if isinstance(stated, dict) else ()
    added = {str(token.get("content") or "") for token in tokens if isinstance(token, dict)}
    with suppress(OSError, ValueError, TypeError):
        added |= set(json.loads((path.parent / _ADDED).read_text(encoding="utf-8")))
    added -= {"", *pieces}
    if added:
        try:
            found = _from_transformers(path.parent, trust_remote_code=trust_remote_code)
            if pieces <= set(found.vocabulary().pieces):
                return found
            reason = "transformers reads another model there"
        except TokenizerError as error:
            reason = str(error)
        _log.warning("%s: the tokens %s, added beside it, are not read: %s", path, sorted(added)[:4], reason)
    return _sentencepiece.define(data, config)


def _from_json(data: bytes, path: Path) -> Definition:
    try:
        source = json.loads(data)
    except ValueError as error:
        raise TokenizerError(f"not valid JSON ({error})") from error
    if not isinstance(source, dict):
        raise TokenizerError("neither a tokenizer.json nor a tekken.json: it holds no JSON object")
    if "model" not in source and isinstance(source.get("config"), dict) and isinstance(source.get("vocab"), list):
        return _tiktoken.define_tekken(source)
    try:
        return _huggingface.define(source, _config_beside(path))
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise TokenizerError(f"not a valid tokenizer.json ({type(error).__name__}: {error})") from error


def _config_beside(path: Path) -> Mapping[str, Any]:
    """Special tokens as `tokenizer_config.json`, or `special_tokens_map.json`, beside a file states them."""
    merged: dict[str, Any] = {}
    for name in _STATED:
        try:
            found = json.loads((path.parent / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            merged.update({key: value for key, value in found.items() if value is not None})
    return merged
