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
from hybridgen.spec.spelling import bare, distance, nearest, synonym

_LISTED_KEYS = 24
_OF_MIXERS, _OF_STACKS = ("bimamba_type", "if_bimamba", "bimamba"), ("if_bidirectional",)
"""Vim's names of what is called `bidirectional` here in both places."""
_ADVISED_FAULTS = 200  # a search per key; a document with more faults than this is not a misspelt one


def _names(specs: Iterable[type[Spec]], without: Collection[str] = ()) -> list[str]:
    names = dict.fromkeys(name for spec in specs for name in spec.model_fields)
    return [name for name in names if name != "type" and name not in without]


@cache
def _homes(long_form: bool) -> dict[str, list[str]]:
    """The places where each name is a field, in a document of this form."""
    aliases = (*SECTION_ALIASES, *NORM_ALIASES)
    places = {
        "at the top level": _names([ModelDocument]),
        "in input": _names(INPUTS.values()),
        "in backbone": _names([BackboneDocument], (*aliases, *(SHORT_FORM if long_form else LONG_FORM))),
    }
    if long_form:
        places |= {
            "in a block": _names([BlockDocument]),
            "in a block's mixer": _names(MIXERS.values()),
            "in a block's mlp": _names([MlpSpec]),
        }
    else:
        places |= {
            "in backbone.ssm": _names(SSMS.values()),
            "in backbone.attn": _names([AttentionSpec]),
            "in backbone.mlp": _names([MlpSpec], ["d_intermediate"]),
        }
    places |= {
        "in backbone.norm": _names([NormSpec]),
        "in backbone.init": _names([InitSpec]),
        "in head": _names(HEADS.values()),
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
    if len(report) > _ADVISED_FAULTS:
        report.add(path, f"unknown field of {what}", key=True)
        return
    # An override of layers of several kinds is read once for each kind; one fault is enough.
    if report.blames(path):
        return
    key = str(path[-1])
    meant = synonym(key) or _prefixed_synonym(key)
    long_form = "blocks" in path or bool({"blocks", "pattern"} & set(given))
    elsewhere = _other_owner(key, valid, long_form)
    if elsewhere is not None:
        report.add(path, f"unknown field of {what}", elsewhere, key=True)
        return
    near = meant if meant in valid else nearest(key, valid, given)
    sure = near is not None and (near == meant or distance(bare(near), bare(key)) <= 1)
    suggestion = near if sure else _advice(key, valid, near, hint, long_form)
    report.add(path, f"unknown field of {what}", suggestion, key=True)
    if near is not None and suggestion == near:
        report.excuse((*path[:-1], str(near)))


def _prefixed_synonym(key: str) -> str | None:
    """What another library's name behind the short form's prefix means: `attn_n_heads` is `attn_num_heads`."""
    section, _, rest = key.partition("_")
    meant = synonym(rest)
    return f"{section}_{meant}" if meant is not None and section in ("ssm", "attn") else None


def _other_owner(key: str, valid: Collection[str], long_form: bool) -> str | None:
    """Advice on a name that means a field of a mixer but stands in a stack, which has a field of that name, or back."""
    if key not in (*_OF_MIXERS, *_OF_STACKS) or ("d_state" if key in _OF_MIXERS else "d_model") in valid:
        return None
    homes = _homes(long_form)["bidirectional"]
    return f"it is called 'bidirectional' here and belongs {homes[-1 if key in _OF_MIXERS else 0]}"


def _advice(key: str, valid: Collection[str], near: str | None, hint: str | None, long_form: bool) -> str:
    meant = synonym(key)
    if hint is not None:
        return hint
    homes = _homes(long_form)
    if key in homes:
        return f"it belongs {listed(homes[key], 'or')}"
    if meant in homes:
        return f"it is called '{meant}' here and belongs {listed(homes[meant], 'or')}"
    if near is not None:
        return near
    elsewhere = nearest(key, homes)
    if elsewhere is not None and distance(key, elsewhere) <= 1:
        return f"closest is '{elsewhere}', which belongs {listed(homes[elsewhere], 'or')}"
    keys = list(valid)[:_LISTED_KEYS]
    return f"the fields are {', '.join(keys)}{' and more' if len(valid) > len(keys) else ''}"
