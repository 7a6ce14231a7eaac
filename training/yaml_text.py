"""YAML in which `5e-5` is a number, as in YAML 1.2 and JSON; to PyYAML, which reads YAML 1.1, it is a string."""

from __future__ import annotations

import re
from typing import Any

import yaml

_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """Safe, and reads every number that JSON writes."""


class _Dumper(yaml.SafeDumper):
    """Safe, and quotes every string that `_Loader` would read as a number."""


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
