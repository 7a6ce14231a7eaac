"""A config says what is wrong with it, and comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from fusion_core import ConfigError
from tests.training.test_cli import fusescope
from training import yaml_text
from training.config import EXAMPLE, apply_change, dump, load, parse
from training.schema import json_schema

GOOD = {"target": "a", "corpus": {"name": "stdlib-code"}, "output": "runs/x"}


def test_the_example_is_valid_and_survives_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(EXAMPLE, encoding="utf-8")
    config = load(path)
    assert config.sources[0].method == "byte-exact" and config.loss.lam == 0.9
    path.write_text(dump(config), encoding="utf-8")
    assert load(path) == config


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("corpus.nam=x", "corpus.nam: unknown field, did you mean 'name'"),
        ("loss.lamb=1", "loss.lamb: unknown field, did you mean 'lam'"),
        ("targt=x", "targt: unknown field, did you mean 'target'"),
        ("loss.lam=2", "less than or equal to 1"),
        ("sources=[{model: a, method: byteexact}]", "did you mean 'byte-exact'"),
        ("fusion.rule=min", "min_ce"),
        ("training.lerning_rate=1", "did you mean 'learning_rate'"),
        ("training.output_dir=x", "no such argument"),
        ("corpus.name=null", "give a name"),
        ("corpus.held_out=0.95", "nothing to train on"),
        ("corpus.part=3/2", "there is no share 3/2"),
        ("corpus.part=half", "corpus.part"),
        ("training.hub_token=hf_abc", "a token must not be"),
        ("training.learning_rate=.inf", "what no config can hold"),
        ("training.learning_rate=fast", "training.learning_rate: 'fast' is text"),
        ("training.learning_rate=[1]", "training.learning_rate: Input should be a valid number"),
        ("training.max_steps=1.5", "training.max_steps: Input should be a valid integer"),
        ("training.bf16=perhaps", "training.bf16: 'perhaps' is text"),
        ("training.learning_rate=-1", "training.learning_rate: must be 0 or more, got -1"),
        ("training.per_device_train_batch_size=0", "must be 1 or more, got 0"),
        ("training.seed=4294967296", "training.seed: must be 4294967295 at most"),
        ("training.resume_from_checkpoint=there", "say --resume"),
        ("loss.lam=true", "loss.lam: this is a number, not true or false"),
        ("teach.dtype=float8", "'float32', 'bfloat16' or 'float16'"),
        ("version=2", "version 2 of the config's format; this program reads 1"),
    ],
)
def test_a_wrong_field_is_named_with_the_nearest_valid_one(change: str, says: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(ConfigError) as error:
        parse(apply_change(json.loads(json.dumps(GOOD)), change))
    assert says in str(error.value)


@pytest.mark.parametrize("text", ["", "- a", "a: [", "!!python/object/apply:os.system ['true']", "a: &a [*a]"])
def test_what_is_no_config_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load(path)


def test_changes_reach_into_lists_and_make_sections() -> None:
    value = {"sources": [{"model": "a"}]}
    assert apply_change(value, "sources.0.model=b") == {"sources": [{"model": "b"}]}
    assert apply_change({}, "training.learning_rate=1.0e-4") == {"training": {"learning_rate": 1e-4}}
    for change in ("lam", "=1", "sources.5.model=b", "sources.x=b"):
        with pytest.raises(ConfigError, match="--set"):
            apply_change({"sources": []}, change)


@pytest.mark.parametrize("text", ["5e-5", "1E3", "-2.5e+7", ".5e1", "5.e2", "+1e-05"])
def test_a_number_with_an_exponent_is_a_number_and_text_like_it_stays_text(text: str) -> None:
    changed = apply_change(json.loads(json.dumps(GOOD)), f"training.learning_rate={text}")
    assert changed["training"]["learning_rate"] == float(text)
    assert yaml_text.read(f"a:\n  b: {text}  # so\n") == {"a": {"b": float(text)}}
    for value in (text, float(text), "e5", "1.5.6e7", "1e5x"):
        assert yaml_text.read(yaml_text.write({"a": value})) == {"a": value}
    assert parse(changed, training=False).training["learning_rate"] == float(text)


@pytest.mark.parametrize(
    "word", ["no", "yes", "on", "off", "Null", "1_0", "true", "0x1", "12:30", "2023_01", "0123", "2024-01-02"]
)
def test_words_come_back_as_they_were(word: str) -> None:
    assert yaml_text.read(yaml_text.write({"a": word})) == {"a": word}


def test_numbers_are_those_of_yaml_1_2_and_a_field_is_there_once() -> None:
    assert yaml_text.read("[12:30, 2023_01, 2024-01-02, 0123, -3, 1.5, .5, 0x1f]") == [
        "12:30", "2023_01", "2024-01-02", 123, -3, 1.5, 0.5, 31,
    ]  # fmt: skip
    merged = "base: &b {lr: 1, x: 2}\ndeep: {sub: {a: &a {<<: *b, lr: 5}}}\ntop: {<<: *a}\n1: a\n'1': b"
    assert yaml_text.read(merged)["top"] == {"lr": 5, "x": 2}
    with pytest.raises(yaml.YAMLError, match="no number"):
        yaml_text.read("a: !!int 0b1")
    with pytest.raises(yaml.YAMLError, match="'training' is there twice"):
        yaml_text.read("training: {max_steps: 1}\noutput: a\ntraining: {learning_rate: 1}")


def test_a_home_folder_may_be_written_as_a_tilde() -> None:
    found = parse({"target": "t", "corpus": {"files": ["~/a.txt"]}, "data": "~/d", "output": "~/o"}, training=False)
    assert [found.corpus.files[0], found.data, found.output] == [Path.home() / name for name in ("a.txt", "d", "o")]


def test_no_is_a_word_where_the_trainer_wants_one() -> None:
    assert apply_change({}, "training.save_strategy=no") == {"training": {"save_strategy": "no"}}
    assert yaml_text.read("a: true\nb: False\nc: off") == {"a": True, "b": False, "c": "off"}


def test_a_number_of_the_other_kind_becomes_one_that_the_trainer_can_use() -> None:
    pytest.importorskip("torch")
    from training.arguments import arguments_of

    value = apply_change(apply_change(yaml.safe_load(EXAMPLE), "training.max_steps=1e1"), "training.warmup_steps=4")
    found = parse(value).training
    assert found["max_steps"] == 10 and isinstance(found["max_steps"], int)
    assert str(found["logging_steps"]) == "5"  # a float to the Trainer, and as it was written
    assert arguments_of(parse(value), validates=False).max_steps == 10


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("loss.temperature=.inf", "no config can hold"), ("fusion.temperature=inf", "finite"),
        ("output=''", "name a folder"),
        ("patience=2", "corpus.validation is 0"), ("loss.lam=!!float abc", "no YAML value"),
    ],
)  # fmt: skip
def test_what_would_be_followed_by_nothing_or_by_a_crash_is_refused(change: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(apply_change(apply_change(yaml.safe_load(EXAMPLE), "corpus.validation=0"), change))


def test_the_schema_describes_every_field() -> None:
    def walk(section: dict) -> None:
        for name, field in section.get("properties", {}).items():
            assert field.get("description") or "$ref" in field, name  # a section describes itself

    schema = json_schema()
    walk(schema)
    ours = [section for name, section in schema["$defs"].items() if name.endswith("Section") or name == "Source"]
    assert len(ours) == 7
    for section in ours:
        assert section["description"]
        walk(section)


def test_the_schema_takes_what_the_program_takes() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    takes = jsonschema.Draft202012Validator(schema)
    example = yaml.safe_load(EXAMPLE)
    assert not list(takes.iter_errors(example))
    assert set(schema["$defs"]["Source"]["properties"]["method"]["enum"]) > {"byte-exact", "published-ot"}
    pytest.importorskip("torch")
    training = schema["properties"]["training"]["properties"]
    assert training["learning_rate"]["description"] and "hub_token" not in training and "output_dir" not in training
    for change in (
        "training.learning_rat=1.0e-4",
        "training.learning_rate=fast",
        "training.lr_scheduler_type=cosine",
        "training.save_strategy=no",
        "training.max_steps=3",
        "training.bf16=true",
        "sources.0.method=byte-exct",
        "fusion.rule=min",
        "corpus.name=nothing",
        "loss.lam=2",
        "loss.divergence=js",
        "patience=-1",
        "lora.r=4",
    ):
        value = apply_change(yaml.safe_load(EXAMPLE), change)
        try:
            parse(value)
            taken = True
        except ConfigError:
            taken = False
        assert taken == (not list(takes.iter_errors(value))), change


def test_the_commands_print_and_check(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(fusescope("config", "--example").stdout, encoding="utf-8")
    checked = fusescope("config", "--check", str(path), "--set", "loss.lam=0.5")
    assert checked.returncode == 0 and yaml.safe_load(checked.stdout)["loss"]["lam"] == 0.5
    assert json.loads(fusescope("config", "--schema").stdout)["title"] == "Config"
    wrong = fusescope("config", "--check", str(path), "--set", "loss.lm=0.5")
    assert wrong.returncode == 2 and "did you mean 'lam'" in wrong.stderr and "Traceback" not in wrong.stderr
    refused = fusescope("config", "--check", str(path), "--set", "training.lr_scheduler_type=magic")
    assert refused.returncode == 2 and "the Trainer refuses" in refused.stderr and "Traceback" not in refused.stderr
    assert fusescope("config").returncode == 2
