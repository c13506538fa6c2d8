"""YAML as people write it: a key that is there twice is a slip, not a choice."""

from __future__ import annotations

from typing import Any

import yaml

# libyaml where PyYAML was built with it: several times faster.
TEXTS = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
"""Every scalar is read as text, so that classes named 0 or "no" stay what they are."""


def read_yaml(text: str, loader: Any = yaml.SafeLoader) -> Any:
    """What a YAML document holds; YAMLError for one that is not valid, or names a key twice in one mapping."""
    reading = loader(text)
    try:
        node = reading.get_single_node()
        if node is None:
            return None
        _check_keys(node)
        return reading.construct_document(node)
    finally:
        reading.dispose()


def _check_keys(node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    raise yaml.YAMLError(f"{key.value!r} is there twice, in lines {lines[key.value]} and {line}")
                lines[key.value] = line
            _check_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _check_keys(each)
