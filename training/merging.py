"""Weights of models of one architecture merged into one, file by file, straight on safetensors."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusion_core import load_tokenizer
from fusion_core.errors import ModelError, TokenizerError
from fusion_core.models import text_config, weights_folder
from fusion_core.workspace import atomic_folder

MERGES = ("linear", "slerp")
# Below this angle (radians) a sphere is flat enough, and sin would divide by next to nothing.
_FLAT = 1e-4
# What of the first model's folder belongs to the result besides weights.
_BESIDE = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
)
# How weights are used, beside their shapes; as transformers reads a config, with its defaults.
_USES = (
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "rms_norm_eps",
    "layer_norm_epsilon",
    "rope_parameters",
    "layer_types",
    "sliding_window",
    "num_experts_per_tok",
)


def slerp(a: Any, b: Any, weight: float) -> Any:
    """Spherical interpolation of two tensors taken as vectors (Shoemake 1985): a at 0, b at 1."""
    import torch

    x, y = a.double().flatten(), b.double().flatten()
    norms = x.norm() * y.norm()
    cosine = (x @ y / norms).clamp(-1, 1) if norms > 0 else torch.tensor(1.0)
    angle = torch.arccos(cosine)
    if float(angle) < _FLAT or float(torch.pi - angle) < _FLAT:
        return linear(a, b, weight)
    parts = torch.sin((1 - weight) * angle) * x + torch.sin(weight * angle) * y
    return (parts / torch.sin(angle)).reshape(a.shape).to(a.dtype)


def linear(a: Any, b: Any, weight: float) -> Any:
    """`(1 - weight) * a + weight * b`."""
    return ((1 - weight) * a.double() + weight * b.double()).to(a.dtype)


def merge_weights(models: Sequence[str], output: Path, method: str = "linear", weight: float = 0.5) -> None:
    """Merge two models, or more one after the other, into the folder `output`, whole or not at all.

    Args:
        models: as `load_model` takes them; the first one gives config, tokenizer and dtypes.
        weight: of each further model against what has been merged before it.

    Raises:
        ModelError: an unknown method, fewer than two models, or their architectures, shapes or vocabularies differ.
    """
    if method not in MERGES:
        raise ModelError(f"unknown merge {method!r}; choose one of {', '.join(MERGES)}")
    if len(models) < 2 or not 0 <= weight <= 1:
        raise ModelError("merging needs at least two models, and a weight from 0 to 1")
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folders = [weights_folder(name) for name in models]
    places = [_places(folder) for folder in folders]
    _check_alike(models, folders, places)
    _check_entries(models)
    combine = {"linear": linear, "slerp": slerp}[method]
    if output.exists():
        raise ModelError(f"{output} is there already; give another folder, or remove it")
    try:
        with atomic_folder(output) as temporary:
            for file in sorted(set(places[0].values())):
                merged = {}
                for name in (n for n, path in places[0].items() if path == file):
                    made, *others = (_tensor(place[name], name) for place in places)
                    for other in others:
                        made = combine(made, other, weight) if made.is_floating_point() else made
                    merged[name] = made.contiguous()
                save_file(merged, temporary / file.name, metadata={"format": "pt"})
            for pattern in _BESIDE:
                for path in folders[0].glob(pattern):
                    shutil.copyfile(path, temporary / path.name)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot merge into {output}: {error}") from error


def _tensor(path: Path, name: str) -> Any:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as opened:
        return opened.get_tensor(name)


def _check_entries(models: Sequence[str]) -> None:
    """Row i of the embeddings must be of one token in all models; a folder of weights alone is taken at its word."""
    first = load_tokenizer(models[0]).vocabulary.pieces
    for name in models[1:]:
        try:
            pieces = load_tokenizer(name).vocabulary.pieces
        except TokenizerError:
            continue
        differing = sum(a != b for a, b in zip(first, pieces, strict=False)) + abs(len(first) - len(pieces))
        if differing:
            raise ModelError(
                f"{models[0]} and {name} differ in {differing:,} entries of their vocabularies: embeddings are of "
                "other tokens and cannot be merged; train with a source instead, which carries it over"
            )


def _places(folder: Path) -> dict[str, Path]:
    """Every tensor's file."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as opened:
                found |= dict.fromkeys(opened.keys(), path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
    if not found:
        raise ModelError(f"{folder} holds no safetensors weights")
    return found


def _uses(folder: Path) -> dict[str, Any]:
    """What a model's config says of how its weights are used."""
    config = text_config(folder)
    return {"architectures": config.architectures, **{field: getattr(config, field, None) for field in _USES}}


def _check_alike(models: Sequence[str], folders: Sequence[Path], places: Sequence[dict[str, Path]]) -> None:
    from safetensors import safe_open

    first, *configs = (_uses(folder) for folder in folders)
    for name, folder, config, place in zip(models[1:], folders[1:], configs, places[1:], strict=True):
        if differing := [field for field in first if first[field] != config[field]]:
            field = differing[0]
            raise ModelError(
                f"{models[0]} and {name} are not of one architecture, which merging needs: {field} is {first[field]} "
                f"in one and {config[field]} in the other"
            )
        if different := set(places[0]) ^ set(place):
            raise ModelError(f"{models[0]} and {name} do not have the same tensors, such as {sorted(different)[0]}")
        for tensor, path in places[0].items():
            with safe_open(path, framework="pt") as a, safe_open(place[tensor], framework="pt") as b:
                shapes = a.get_slice(tensor).get_shape(), b.get_slice(tensor).get_shape()
            if shapes[0] != shapes[1]:
                raise ModelError(f"{tensor} is {shapes[0]} in {models[0]} and {shapes[1]} in {folder.name}")
