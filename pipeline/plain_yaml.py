"""YAML without its traps: what reads like a number is one, what reads like a date is text, no key appears twice."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_FLOAT, _TIMESTAMP, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("float", "timestamp", "merge"))
# YAML 1.1 wants a dot and a sign: it reads 1e-4 and 1e6 as text.
_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")

MAX_VALUES, MAX_DEPTH = 100_000, 64
# What the safe loader raises for !!int x, !!bool x, !!timestamp x, for digits without end and for brackets in brackets.
_NO_VALUE = (ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError)
_LINE_BREAKS = re.compile("[\x85\u2028\u2029]")


def load_yaml(text: str) -> Any:
    """The value of a YAML document; yaml.YAMLError where it is none, or where a key is not text or appears twice."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        _refuse_expansion(node)
        return None if node is None else loader.construct_document(node)
    except _NO_VALUE as error:
        raise ConstructorError(None, None, f"a value cannot be read ({type(error).__name__}: {error})") from error
    finally:
        loader.dispose()


def dump_yaml(value: Any) -> str:
    """YAML that `load_yaml` reads back as the same value, keys in their order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _refuse_expansion(root: yaml.Node | None) -> None:
    """Aliases repeat what they stand for; a few lines of them would fill the memory once they are written out."""
    known: dict[int, tuple[int, int]] = {}

    def measure(node: yaml.Node) -> tuple[int, int]:
        """How many values, and how deeply nested."""
        if id(node) not in known:
            known[id(node)] = MAX_VALUES + 1, MAX_DEPTH + 1  # what holds itself has no end
            parts = node.value if isinstance(node, yaml.SequenceNode) else []
            parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else parts
            below = [measure(part) for part in parts]
            known[id(node)] = 1 + sum(size for size, _ in below), 1 + max((depth for _, depth in below), default=0)
        return known[id(node)]

    size, depth = (0, 0) if root is None else measure(root)
    if size > MAX_VALUES or depth > MAX_DEPTH:
        raise _too_much(None if root is None else root.start_mark)


def _too_much(where: yaml.Mark | None) -> ConstructorError:
    limits = f"more than {MAX_VALUES:,} values with aliases written out, or more than {MAX_DEPTH} levels of them"
    return ConstructorError(None, None, limits, where)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuses depth where it begins: the scanner's time grows with its square."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _too_much(None if parent is None else parent.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are text, each once; a merge (<<) may repeat them."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node)
            if not isinstance(key, str):
                raise ConstructorError(
                    None, None, f"the key {key!r} is not text; put quotes around it", key_node.start_mark
                )
            if key in seen:
                raise ConstructorError(None, None, f"the key {key!r} appears twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text in which YAML sees line breaks of its own, which would come back as spaces."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        """Plain where that is safe, in double quotes (with escapes) where it is not."""
        style = '"' if _LINE_BREAKS.search(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# Kinds of value that no key takes and JSON does not know: their tags are as unknown as any other.
_Loader.yaml_constructors = {
    tag: build
    for tag, build in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
}
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+0123456789"))
