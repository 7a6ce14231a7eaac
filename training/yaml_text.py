"""YAML in which `5e-5` is a number and `no` a word, as in YAML 1.2; to PyYAML, which reads 1.1, it is the reverse."""

from __future__ import annotations

import re
from typing import Any

import yaml

_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """Safe, and reads every number that JSON writes."""


class _Dumper(yaml.SafeDumper):
    """Safe, and quotes every string that `_Loader`, or a reader of YAML 1.1, would take for something else."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != _BOOL]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read(text: str) -> Any:
    """The value of a document.

    Raises:
        yaml.YAMLError: it is no YAML, or asks for more than plain values.
        RecursionError: it is nested too deeply.
    """
    return yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader


def write(value: Any) -> str:
    """Plain values as a document from which `read` gets them back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
