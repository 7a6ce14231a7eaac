"""YAML in which `5e-5` is a number and `no` a word, as in YAML 1.2; to PyYAML, which reads 1.1, it is the reverse."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import yaml

# YAML 1.1's numbers in base 60, and with underscores, are words in 1.2; a leading 0 says nothing there.
_INT = re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$")


class _Loader(yaml.SafeLoader):
    """Safe, reads every number that JSON writes, and refuses a field that is there twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0][1]!r} is there twice", node.start_mark)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(node.value)
        try:
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        except ValueError:
            raise yaml.constructor.ConstructorError(None, None, f"{text!r} is no number", node.start_mark) from None


class _Dumper(yaml.SafeDumper):
    """Safe, and quotes every string that `_Loader`, or a reader of YAML 1.1, would take for something else."""


_BOOL, _NUMBERS = "tag:yaml.org,2002:bool", ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in (_BOOL, *_NUMBERS, "tag:yaml.org,2002:timestamp")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(_NUMBERS[0], _INT, list("-+0123456789"))
    _kind.add_implicit_resolver(_NUMBERS[1], _FLOAT, list("-+.0123456789"))


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
