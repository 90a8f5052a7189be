"""What layers hand to later ones beside the residual stream: scores, choices of selective layers, values."""

from typing import Literal, NamedTuple

from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.model import BackboneSpec

PathKind = Literal["scores", "choices", "values"]


class Path(NamedTuple):
    """One layer hands something to another.

    Attributes:
        kind: `scores` of residual attention, `choices` of what to hide, `values` of the first attention layer.
        source: Number of the layer that gives.
        target: Number of the layer that takes.
    """

    kind: PathKind
    source: int
    target: int


def layer_paths(backbone: BackboneSpec) -> list[Path]:
    """Lists all paths of a stack.

    Where a layer takes the choices of all selective layers before it, the path comes from the nearest, and from further
    ones as far back as one that has itself taken all before it: what goes along such a chain is all of them.
    """
    return _scores(backbone) + _choices(backbone) + _values(backbone)


def _attention(backbone: BackboneSpec) -> list[tuple[int, AttentionSpec]]:
    layers = enumerate(backbone.layers)
    return [(index, layer.mixer) for index, layer in layers if isinstance(layer.mixer, AttentionSpec)]


def _scores(backbone: BackboneSpec) -> list[Path]:
    residual = backbone.residual_attn
    if residual is None:
        return []
    found, last, length = [], None, 0
    for index, layer in enumerate(backbone.layers):
        if isinstance(layer.mixer, AttentionSpec):
            if last is not None and length % (residual.every or backbone.n_layer) != 0:
                found.append(Path("scores", last, index))
                length += 1
            else:
                length = 1
            last = index
        elif layer.mixer is not None and not residual.cross_block:
            last = None
    return found


def _choices(backbone: BackboneSpec) -> list[Path]:
    found: list[Path] = []
    choosers: list[tuple[int, bool]] = []  # with whether the layer has taken all choices before it
    for index, mixer in _attention(backbone):
        if not mixer.selective:
            continue
        takes_all = mixer.selection_from in ("accumulate", "previous")
        for source, has_all in reversed(choosers):
            if mixer.selection_from == "self":
                break
            found.append(Path("choices", source, index))
            if has_all or mixer.selection_from == "guide":
                break
        if mixer.selection_from != "guide":
            choosers.append((index, takes_all))
    return found


def _values(backbone: BackboneSpec) -> list[Path]:
    if backbone.value_residual == "none":
        return []
    numbers = [index for index, _ in _attention(backbone)]
    return [Path("values", numbers[0], index) for index in numbers[1:]]
