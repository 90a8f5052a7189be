"""What to say about a key that does not exist where it stands: a nearer spelling, another place, or the valid keys."""

from collections.abc import Collection, Iterable
from functools import cache

from hybridgen.spec.base import Spec
from hybridgen.spec.document import (
    HEADS,
    INPUTS,
    LONG_FORM,
    MIXERS,
    NORM_ALIASES,
    SECTION_ALIASES,
    SHORT_FORM,
    SSMS,
    BackboneDocument,
    BlockDocument,
    ModelDocument,
)
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.parts import InitSpec, MlpSpec, NormSpec
from hybridgen.spec.places import YamlPath
from hybridgen.spec.report import Report, listed
from hybridgen.spec.spelling import distance, nearest, synonym

_LISTED_KEYS = 24


def _names(specs: Iterable[type[Spec]], without: Collection[str] = ()) -> list[str]:
    names = dict.fromkeys(name for spec in specs for name in spec.model_fields)
    return [name for name in names if name != "type" and name not in without]


@cache
def _homes(long_form: bool) -> dict[str, list[str]]:
    """The places where each name is a field, in a document of this form."""
    aliases = (*SECTION_ALIASES, *NORM_ALIASES)
    places = {
        "the top level": _names([ModelDocument]),
        "input": _names(INPUTS.values()),
        "backbone": _names([BackboneDocument], (*aliases, *(SHORT_FORM if long_form else LONG_FORM))),
    }
    if long_form:
        places |= {
            "a block": _names([BlockDocument]),
            "a block's mixer": _names(MIXERS.values()),
            "a block's mlp": _names([MlpSpec]),
        }
    else:
        places |= {
            "backbone.ssm": _names(SSMS.values()),
            "backbone.attn": _names([AttentionSpec]),
            "backbone.mlp": _names([MlpSpec], ["d_intermediate"]),
        }
    places |= {
        "backbone.norm": _names([NormSpec]),
        "backbone.init": _names([InitSpec]),
        "head": _names(HEADS.values()),
    }
    homes: dict[str, list[str]] = {}
    for place, names in places.items():
        for name in names:
            homes.setdefault(name, []).append(place)
    return homes


def unknown_key(
    report: Report, path: YamlPath, what: str, valid: Collection[str], given: Collection[str], hint: str | None = None
) -> None:
    """Reports a key that does not exist where it was written.

    Args:
        report: Takes the fault.
        path: The key's path.
        what: The part it was written in, such as `mixer type 'mamba2'`.
        valid: The keys that exist there.
        given: The keys that the user wrote there.
        hint: What to say if no valid key is near, instead of naming another place.
    """
    key = str(path[-1])
    long_form = "blocks" in path or bool({"blocks", "pattern"} & set(given))
    report.add(path, f"unknown field of {what}", _advice(key, valid, given, hint, long_form), key=True)


def _advice(key: str, valid: Collection[str], given: Collection[str], hint: str | None, long_form: bool) -> str:
    meant = synonym(key)
    if meant in valid:
        return f"closest is '{meant}'"
    near = nearest(key, valid, given)
    if near is not None and distance(near.replace("_", ""), key.lower().replace("_", "")) <= 1:
        return f"closest is '{near}'"
    if hint is not None:
        return hint
    homes = _homes(long_form)
    if key in homes:
        return f"it belongs in {listed(homes[key], 'or')}"
    if meant in homes:
        return f"it is called '{meant}' here and belongs in {listed(homes[meant], 'or')}"
    if near is not None:
        return f"closest is '{near}'"
    elsewhere = nearest(key, homes)
    if elsewhere is not None and distance(key, elsewhere) <= 1:
        return f"closest is '{elsewhere}', which belongs in {listed(homes[elsewhere], 'or')}"
    keys = list(valid)[:_LISTED_KEYS]
    return f"the fields are {', '.join(keys)}{' and more' if len(valid) > len(keys) else ''}"
