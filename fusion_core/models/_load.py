"""From a model's name to a `Model`. Weights are safetensors or GGUF; pickled ones are refused."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock

from fusion_core.errors import ModelError
from fusion_core.models._model import Model
from fusion_core.tokenizers import SAMPLES, Tokenizer, load_tokenizer
from fusion_core.workspace import atomic_folder, digest, expanded, workspace

MOST_LAYERS = 4096
SAMPLE_MODELS = ("smollm2-135m", "gemma-3-270m")
_AND_MORE = f"{' and '.join(SAMPLE_MODELS)}; or name a hub id, a folder or a .gguf file"


def require_torch() -> None:
    """Raises `ModelError`, which says what to install, where torch is missing."""
    if find_spec("torch") is None:
        raise ModelError("running models needs torch: make samples (or: pip install 'fusescope[models]')")


def load_model(
    name: str | Path, *, device: str | None = None, dtype: str | None = None, tokenizer: Tokenizer | None = None
) -> Model:
    """The causal language model called `name` with its tokenizer.

    Args:
        name: a name in `SAMPLE_MODELS`, a hub id, a local folder, or a `.gguf` file. GGUF weights are converted to
            safetensors in the workspace folder once.
        device: such as `cpu` or `cuda`; by default CUDA where there is one.
        tokenizer: the one to use, for a folder that holds none; by default the one of that name.
        dtype: `float32`, `bfloat16` or `float16`; by default bfloat16 on CUDA, float32 elsewhere.

    Raises:
        ModelError: torch is not installed, there is no such model, it cannot be loaded, or memory does not suffice.
        TokenizerError: its tokenizer cannot be loaded.
    """
    label = str(name).strip()
    require_torch()
    import torch
    import transformers

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = getattr(torch, dtype or ("bfloat16" if device.startswith("cuda") else "float32"), None)
    if not isinstance(kind, torch.dtype):
        raise ModelError(f"unknown dtype {dtype!r}; choose float32, bfloat16 or float16")
    folder = local_or_hub(label)
    tokenizer = tokenizer or load_tokenizer(label)
    try:
        network = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=read_config(folder), dtype=kind, use_safetensors=True, trust_remote_code=False
        )
        if device != "cpu":
            network = network.to(device)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"the model {label!r} does not fit into the memory of {device}; try device='cpu'") from error
    except Exception as error:  # the library has many ways to say no
        raise ModelError(f"cannot load the model {label!r}: {first_line(error)}") from error
    return Model(label, tokenizer, network.eval())


def read_config(folder: str) -> Any:
    """A model's config; raises `ValueError` for more layers than any model has: to build them takes for ever."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    layers = int(getattr(config.get_text_config(), "num_hidden_layers", 0) or 0)
    if layers > MOST_LAYERS:
        raise ValueError(f"its config asks for {layers:,} layers; at most {MOST_LAYERS:,} are built")
    return config


def text_config(name: str | Path) -> Any:
    """The config of the model called `name`, of its text part if it has others, as transformers reads it; raises
    `ModelError`."""
    try:
        return read_config(local_or_hub(str(name).strip())).get_text_config()
    except ModelError:
        raise
    except Exception as error:  # the library has many ways to say no
        raise ModelError(f"cannot read the config of the model {str(name)!r}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Of what a library says, as much as fits into a message."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def default_dtype(device: str | None = None) -> str:
    """What `load_model` takes where no dtype is given."""
    import torch

    on_cuda = (device or ("cuda" if torch.cuda.is_available() else "cpu")).startswith("cuda")
    return "bfloat16" if on_cuda else "float32"


def weights_folder(name: str) -> Path:
    """The local folder of a model's safetensors, downloaded or converted if need be; raises as `load_model`."""
    import huggingface_hub

    folder = local_or_hub(name)
    if Path(folder).is_dir():
        return Path(folder)
    try:
        patterns = ["*.safetensors", "*.json", "tokenizer*", "*.model"]
        return Path(huggingface_hub.snapshot_download(folder, allow_patterns=patterns))
    except Exception as error:  # whatever the hub's client raises
        raise ModelError(f"cannot download the model {name!r}: {first_line(error)}") from error


def local_or_hub(name: str) -> str:
    """A folder with safetensors weights, or a hub id."""
    if not name:
        raise ModelError(f"no model was named; there are {_AND_MORE}")
    if name in SAMPLE_MODELS:
        path = SAMPLES[name].path
        if path is None:
            raise ModelError(f"the sample model {name!r} is not installed; run: make samples")
        return str(_converted(path, name))
    path = expanded(name)
    if name in SAMPLES and not path.exists():
        raise ModelError(f"{name!r} is a tokenizer alone, without weights; the sample models are {_AND_MORE}")
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"{path} is no .gguf file; name the folder that holds config.json and model.safetensors")
        stat = path.stat()
        return str(_converted(path, digest(str(path.resolve()), str(stat.st_size), str(stat.st_mtime_ns))[:24]))
    if path.is_dir():
        if not any(path.glob("*.safetensors")):
            pickled = [p.name for p in (*path.glob("*.bin"), *path.glob("*.pt"))]
            hint = (
                f" ({', '.join(pickled[:2])}: pickled weights are never loaded; convert them first)" if pickled else ""
            )
            raise ModelError(f"the folder {path} holds no .safetensors weights{hint}")
        return str(path)
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"there is no file or folder {name!r}, and it is no hub id")
    return name


def _converted(path: Path, key: str) -> Path:
    """The folder of `path`'s weights as safetensors, converted whole or not at all, and by one process if several want
    it at once."""
    target = workspace() / "models" / key
    if _is_converted(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{key}.lock"):
            if not _is_converted(target):
                _convert(path, target)
    except OSError as error:
        raise ModelError(f"cannot convert {path.name} into {target}: {error.strerror or error}") from error
    return target


def _is_converted(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file() and (folder / "config.json").is_file()


def _convert(path: Path, target: Path) -> None:
    import torch
    import transformers

    try:
        with atomic_folder(target) as temporary:
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                str(path.parent), gguf_file=path.name, dtype=torch.float32
            )
            # What comes from GGUF is marked as quantised and cannot be saved as it is.
            if hasattr(loaded.config, "quantization_config"):
                del loaded.config.quantization_config
            plain = transformers.AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
            plain.load_state_dict(loaded.state_dict())
            plain.save_pretrained(str(temporary), safe_serialization=True)
    except OSError:
        raise
    except Exception as error:
        raise ModelError(f"cannot read the weights of {path.name}: {first_line(error)}") from error
