"""The one file that says what to train on what: read, checked field by field, and explained."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_type_hints

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from fusion_core.errors import ConfigError
from fusion_core.fusion import RULES
from fusion_core.transfer import METHODS
from fusion_core.workspace import expanded
from training import yaml_text
from training.corpus import CORPORA

# Of the format of config files.
VERSION = 1
# Arguments of the Trainer that would write a token down.
SECRETS = ("hub_token", "push_to_hub_token")
# Arguments of the Trainer that its own loss heeds and ours does not.
WITHOUT_EFFECT = {
    "label_smoothing_factor": "the loss is that of 'loss:', whose fused distribution smooths the labels",
    "resume_from_checkpoint": "say --resume, which goes on from the run's own last checkpoint",
}
# Least and greatest values of the Trainer's arguments that it takes as they are, and fails with after the data has been
# made.
LEAST = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 0,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "seed": 0,
    "data_seed": 0,
    "dataloader_num_workers": 0,
    "save_total_limit": 1,
}
MOST = {"seed": 2**32 - 1, "data_seed": 2**32 - 1}
# The Trainer's arguments where a config says nothing.
DEFAULTS: dict[str, Any] = {
    "logging_steps": 10,
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "report_to": "none",
    "per_device_train_batch_size": 4,
    "learning_rate": 2e-5,
    "seed": 0,
    "num_train_epochs": 3,
}
# Names that training.stages.carry knows besides the transfer methods.
PUBLISHED = ("published-hard", "published-soft", "published-ot")


# A home folder may be written as `~`.
_Place = Annotated[Path, AfterValidator(expanded)]


def _one_of(value: str, names: Sequence[str]) -> str:
    if value not in names:
        near = difflib.get_close_matches(value, names, 1)
        raise ValueError(f"unknown name {value!r}{f', did you mean {near[0]!r}' if near else ''}; {', '.join(names)}")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind in (int, float):
            raise ValueError("this is a number, not true or false")
        return value


class Source(_Section):
    """A model that teaches."""

    model: str = Field(description="A sample's name, a hub id, a folder or a .gguf file.")
    method: str = Field(
        "byte-exact",
        description="How it is carried to the target's tokens: a transfer method, or published-hard, "
        "published-soft (FuseLLM) or published-ot (PTA-LLM) for the published code as it is, on the most probable half "
        "of the entries kept.",
        json_schema_extra={"enum": [*METHODS, *PUBLISHED]},
    )

    @field_validator("method")
    @classmethod
    def _known(cls, value: str) -> str:
        return _one_of(value, (*METHODS, *PUBLISHED))


class HubSection(_Section):
    """A data set of the Hugging Face hub, streamed (needs the extra 'hub')."""

    name: str = Field(description="Such as wikimedia/wikipedia, or a folder in that form.")
    subset: str | None = Field(None, description="Of a data set that has several, such as 20231101.sw.")
    split: str = Field("train", description="The data set's own split to read.")
    column: str = Field("text", description="The column that holds the texts.")


class CorpusSection(_Section):
    """Texts, and which of them are kept apart."""

    name: str | None = Field(
        None,
        description=f"A corpus that is always there: {', '.join(CORPORA)}.",
        json_schema_extra={"anyOf": [{"enum": list(CORPORA)}, {"type": "null"}]},
    )
    files: list[_Place] = Field(
        [],
        description="Text files, or .jsonl, .ndjson or .parquet with a column 'text' (and 'name': rows of one name are "
        "one document's).",
    )
    hub: HubSection | None = Field(None, description="A data set of the Hugging Face hub.")
    part: str | None = Field(
        None,
        pattern=r"^[1-9][0-9]*/[1-9][0-9]*$",
        description="A share of the documents, such as 1/2 or 2/2, by a hash of their names: two models, two shares.",
    )
    limit: int = Field(0, ge=0, description="Documents to read at most; 0 for all.")
    split: Literal["hash", "order"] = Field(
        "hash",
        description="How documents are kept apart: by a hash of their names, or order: the last ones of each domain, "
        "and of a long text its last parts. A text that is kept apart is not trained on under another name.",
    )
    validation: float = Field(0.1, ge=0, lt=1, description="Share of documents for validation during training.")
    held_out: float = Field(0.1, ge=0, lt=1, description="Share of documents that only 'fusescope evaluate' reads.")
    paragraphs: bool = Field(False, description="Make every line of a text that is not empty a document of its own.")

    @field_validator("name")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        return value if value is None else _one_of(value, tuple(CORPORA))

    @field_validator("part")
    @classmethod
    def _within(cls, value: str | None) -> str | None:
        if value is not None:
            number, of = map(int, value.split("/"))
            if number > of:
                raise ValueError(f"there is no share {value}; the last one is {of}/{of}")
        return value


class TeachSection(_Section):
    """How the models are asked."""

    top_k: int = Field(64, ge=1, description="Entries kept of each distribution.")
    device: str | None = Field(None, description="cpu or cuda; by default CUDA where there is one.")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(None, description="By default bfloat16 on CUDA.")


class FusionSection(_Section):
    """How several sources become one."""

    rule: str = Field("min_ce", description=f"One of {', '.join(RULES)}.", json_schema_extra={"enum": list(RULES)})
    level: Literal["sequence", "token"] = Field("sequence", description="What weights are by: a document or a token.")
    temperature: float = Field(1.0, gt=0, description="Of avg_ce; below 1 is sharper.")
    with_target: bool = Field(False, description="Fuse the target's own distribution too, as one more source.")

    @field_validator("rule")
    @classmethod
    def _known(cls, value: str) -> str:
        return _one_of(value, tuple(RULES))


class LossSection(_Section):
    """L = lam * CLM + (1 - lam) * D."""

    lam: float = Field(0.9, ge=0, le=1, description="Weight of CLM; 1 trains on the text alone.")
    divergence: Literal["ce", "forward_kl", "reverse_kl", "js"] = Field("ce", description="D.")
    fallback: Literal["none", "gold", "target"] = Field("none", description="Where nothing could be carried over.")
    temperature: float = Field(1.0, gt=0, description="Divides the target's logits for D.")


class LoraSection(_Section):
    """Train low-rank adapters instead of all weights (peft)."""

    r: int = Field(16, ge=1, description="Rank.")
    alpha: int = Field(32, ge=1, description="Scale of the adapters.")
    dropout: float = Field(0.0, ge=0, lt=1, description="In the adapters.")


class Config(_Section):
    """What to train on what."""

    version: int = Field(VERSION, description=f"Of the config's format: {VERSION}.")
    kind: Literal["train", "ensemble", "linear", "slerp"] = Field(
        "train",
        description="train; or, for comparison and without training, ensemble: the sources fused, as they "
        "are; linear or slerp: the weights of target and sources merged (one architecture).",
    )
    merge_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="For linear and slerp: of each source's weights against what is "
        "merged before it, the target and the sources named first.",
    )
    target: str = Field(description="The model that learns: a sample's name, a hub id, a folder or a .gguf file.")
    sources: list[Source] = Field([], description="Who teaches; none trains on the text alone.")
    corpus: CorpusSection = Field(description="Texts, and which of them are kept apart.")
    teach: TeachSection = Field(TeachSection(), description="How the models are asked.")
    fusion: FusionSection = Field(FusionSection(), description="How several sources become one.")
    loss: LossSection = Field(LossSection(), description="L = lam * CLM + (1 - lam) * D.")
    packing: bool = Field(
        False,
        description="Lay the documents of a batch one behind the other instead of padding; each is read for itself.",
    )
    online: bool = Field(
        False, description="Ask the models during training and keep nothing on disk; all must fit into memory at once."
    )
    max_length: int = Field(512, ge=8, description="Tokens of a training example; longer documents are cut.")
    training: dict[str, Any] = Field(
        {}, description="Arguments of the transformers Trainer by their names, such as learning_rate."
    )
    patience: int = Field(
        0, ge=0, description="Stop after so many evaluations without a better one; 0 never. Keeps the best checkpoint."
    )
    lora: LoraSection | None = Field(None, description="Train adapters instead of all weights.")
    data: _Place | None = Field(
        None,
        description="Where distributions are kept, by default data/ in output; runs that name one folder share them.",
    )
    output: _Place = Field(description="The run's folder: data, checkpoints, metrics, the trained model.")

    @field_validator("output", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if value == "":
            raise ValueError("name a folder; an empty name would be the one that this is started in")
        return value

    @field_validator("version")
    @classmethod
    def _readable(cls, value: int) -> int:
        if value != VERSION:
            raise ValueError(f"version {value} of the config's format; this program reads {VERSION}")
        return value


def training_fields() -> dict[str, Any]:
    """The Trainer's arguments and their types; needs transformers and torch."""
    from transformers import TrainingArguments

    types = get_type_hints(TrainingArguments)
    return {field.name: types[field.name] for field in dataclasses.fields(TrainingArguments)}


def parse(value: Any, origin: str = "the config", *, training: bool = True) -> Config:
    """A checked config.

    Args:
        value: as YAML gives it.
        training: also check the names under `training`, for which transformers is imported.

    Raises:
        ConfigError: it is no mapping, or fields are wrong; the message names each of them and the nearest valid name.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{origin} must hold fields such as 'target:' and 'corpus:'; see fusescope config --example")
    try:
        # What cannot be written down again would not be there when the run is resumed.
        json.dumps(value, ensure_ascii=False, allow_nan=False, default=str).encode("utf-8")
        config = Config.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {'; '.join(_complaints(error))}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{origin} holds what no config can hold: {str(error)[:200]}") from error
    if config.corpus.name is None and not config.corpus.files and config.corpus.hub is None:
        raise ConfigError(f"{origin}: corpus: give a name ({', '.join(CORPORA)}), files or a hub data set")
    if training and config.patience and not config.corpus.validation:
        raise ConfigError(f"{origin}: patience stops by what validation says, and corpus.validation is 0")
    if config.corpus.validation + config.corpus.held_out >= 1:
        raise ConfigError(f"{origin}: corpus: validation and held_out leave nothing to train on")
    if training and config.training:
        known = set(training_fields()) - {"output_dir"}
        for name in config.training:
            if name in SECRETS:
                raise ConfigError(
                    f"{origin}: training.{name}: configs are written into run folders, and a token must not be; "
                    "log in with 'hf auth login', or set HF_TOKEN"
                )
            if name in WITHOUT_EFFECT:
                raise ConfigError(f"{origin}: training.{name}: has no effect here: {WITHOUT_EFFECT[name]}")
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f", did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"{origin}: training.{name}: the Trainer has no such argument{hint}")
        _check_numbers(config.training, origin)
    return config


def _check_numbers(training: dict[str, Any], origin: str) -> None:
    """The Trainer itself takes any value for a number, and fails with it after the data has been made; a whole float
    where it counts, such as 1e3 steps, becomes an integer."""
    types = training_fields()
    for name, value in training.items():
        if not set(get_args(types[name]) or [types[name]]) <= {bool, int, float, NoneType}:
            continue
        try:
            if isinstance(value, str):
                raise ConfigError(f"{origin}: training.{name}: {value!r} is text, not a number, true or false")
            number = TypeAdapter(types[name]).validate_python(value)
            if isinstance(number, int):
                training[name] = number
            if name in LEAST and number is not None and number < LEAST[name]:
                raise ConfigError(f"{origin}: training.{name}: must be {LEAST[name]} or more, got {value!r}")
            if name in MOST and number is not None and number > MOST[name]:
                raise ConfigError(f"{origin}: training.{name}: must be {MOST[name]} at most, got {value!r}")
        except ValidationError as error:
            raise ConfigError(f"{origin}: training.{name}: {error.errors()[0]['msg']}, got {value!r}") from None


def _complaints(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        where = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            *path, name = item["loc"]
            near = difflib.get_close_matches(str(name), _fields_at(path), 1)
            yield f"{where}: unknown field{f', did you mean {near[0]!r}?' if near else ''}"
        else:
            yield f"{where}: {item['msg'].removeprefix('Value error, ')}"


def _fields_at(path: Sequence[int | str]) -> list[str]:
    section: Any = Config
    for part in path:
        if isinstance(part, int):
            continue
        kinds = {
            "sources": Source,
            "corpus": CorpusSection,
            "hub": HubSection,
            "teach": TeachSection,
            "fusion": FusionSection,
        }
        section = {**kinds, "loss": LossSection, "lora": LoraSection}.get(part, section)
    return list(section.model_fields)


def load(path: Path, changes: Sequence[str] = (), *, training: bool = True) -> Config:
    """The config in a YAML file, with changes such as `loss.lam=0.5` made to it; raises `ConfigError`."""
    try:
        value = yaml_text.read(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # the first also of bytes that are no UTF-8
        raise ConfigError(f"{path} is no readable YAML: {' '.join(str(error).split())[:300]}") from error
    for change in changes:
        value = apply_change(value if isinstance(value, dict) else {}, change)
    return parse(value, str(path), training=training)


def apply_change(value: dict[str, Any], change: str) -> dict[str, Any]:
    """`value` with `a.b=c` set in it, c read as YAML; numbers in the path index lists.

    Raises:
        ConfigError: the change has no `=`, or its path leads through something that has no fields.
    """
    name, equals, text = change.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set takes NAME=VALUE such as loss.lam=0.5, got {change!r}")
    try:
        new = yaml_text.read(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"--set {name}: {text!r} is no YAML value") from error
    place: Any = value
    *path, last = name.strip().split(".")
    for part in path:
        if isinstance(place, list) and part.isdigit() and int(part) < len(place):
            place = place[int(part)]
        elif isinstance(place, dict):
            if not isinstance(place.get(part), dict | list):
                place[part] = {}
            place = place[part]
        else:
            raise ConfigError(f"--set {name}: there is no {part!r} to set something in")
    if isinstance(place, list) and last.isdigit() and int(last) < len(place):
        place[int(last)] = new
    elif isinstance(place, dict):
        place[last] = new
    else:
        raise ConfigError(f"--set {name}: there is no {last!r} to set")
    return value


def dump(config: Config) -> str:
    """A config as YAML, from which `load` gets it back."""
    return yaml_text.write(json.loads(config.model_dump_json()))


EXAMPLE = """\
# Train SmolLM2-135M on the standard library's docstrings, taught by Gemma 3 270M.
#   fusescope train THIS_FILE
target: smollm2-135m
sources:
  - model: gemma-3-270m
    method: byte-exact          # or boundary-hard, ot, fusellm-hard, published-hard ...
corpus:
  name: stdlib-docstrings       # or files: [texts.jsonl, more.txt], or hub: {name: wikimedia/wikipedia}
  limit: 8                      # documents; 0 for all, or some hundred for results that say something
  split: order                  # the last documents are kept apart; or hash: by their names, for large corpora
  validation: 0.1
  held_out: 0.2
teach:
  top_k: 64                     # entries kept of each distribution
fusion:                         # matters with several sources, or with_target
  rule: min_ce                  # or avg_ce, mean, product
  level: sequence
  with_target: false
loss:
  lam: 0.9                      # weight of the text itself; 1.0 is CLM only
  divergence: ce                # or forward_kl, reverse_kl, js
  fallback: none
max_length: 512
training:                       # arguments of the transformers Trainer, by their names
  num_train_epochs: 1
  per_device_train_batch_size: 4
  learning_rate: 2.0e-5
  logging_steps: 5
  seed: 0
# lora: {r: 16, alpha: 32}      # train adapters instead of all weights
# data: runs/data               # where distributions are kept, to be shared by several runs
output: runs/docstrings
"""
