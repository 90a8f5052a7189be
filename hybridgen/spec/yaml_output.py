"""A resolved document as YAML text, which reads back as the same document."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

_PLAIN = re.compile(r"[A-Za-z_(]")


class _Dumper(yaml.SafeDumper):
    """Writes lists in brackets, and in quotes every text that could be taken for a number."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # PyYAML takes `1e5` for a text, while the loader, which follows OmegaConf, takes it for a number.
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if _PLAIN.match(value) else '"')


def _list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)


def to_yaml(document: Mapping[str, Any]) -> str:
    """Returns the YAML text of `ModelSpec.document()`, its fields in their order."""
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
