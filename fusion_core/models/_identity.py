"""What tells one state of a model from another, without its weights being loaded."""

from __future__ import annotations

from pathlib import Path

from fusion_core.tokenizers import SAMPLES
from fusion_core.workspace import digest, expanded

# Bytes of a file that are looked at, in blocks spread over it.
_BLOCK, _BLOCKS = 4096, 64


def weights_identity(name: str) -> str:
    """What a cache of the model's work goes by: sizes and times of the local files, those in the hub's cache too, that
    hold its weights, its configuration and how its tokenizer begins a text; else the name."""
    stats = [(file.name, file.stat()) for file in _files(name)]
    return digest(*(f"{n}:{stat.st_size}:{stat.st_mtime_ns}" for n, stat in stats))[:16] if stats else name


def weights_sample(name: str) -> str | None:
    """What stays the same where the model's files are copied: the sizes of its weights and samples of their bytes.
    Training changes all weights, and so the samples. None where the model is not here."""
    parts = [part for file in _files(name) if file.suffix != ".json" for part in (file.name, *_sampled(file))]
    return digest(*parts)[:16] if parts else None


def config_sample(name: str) -> str | None:
    """What tells one config.json of a model from another; None where there is none here, as beside a .gguf file."""
    found = [file for file in _files(name) if file.name == "config.json"]
    return digest(found[0].read_bytes().decode("utf-8", "replace"))[:16] if found else None


def _files(name: str) -> list[Path]:
    """The local files of a model, also of one in the hub's cache; none where it is not there."""
    path = SAMPLES[name].path if name in SAMPLES else expanded(name)
    if path is not None and not path.exists():
        path = _cached(name)
    if path is None or path.is_file():
        return [] if path is None else [path]
    weights = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    beside = [path / part for part in ("config.json", "tokenizer_config.json")] if weights else []
    return [*weights, *(file for file in beside if file.is_file())]


def _sampled(path: Path) -> list[bytes | str]:
    size = path.stat().st_size
    found: list[bytes | str] = [str(size)]
    with path.open("rb") as file:
        for n in range(_BLOCKS):
            file.seek(n * max(0, size - _BLOCK) // (_BLOCKS - 1))
            found.append(file.read(_BLOCK))
    return found


def _cached(name: str) -> Path | None:
    """The folder of a hub id in the hub's cache, of its newest commit there."""
    import huggingface_hub

    try:
        config = huggingface_hub.try_to_load_from_cache(name, "config.json")
    except ValueError:  # no hub id
        return None
    return Path(config).parent if isinstance(config, str) else None
