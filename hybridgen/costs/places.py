"""What a layer's cost depends on besides its own fields: where it stands in the stack."""

from collections.abc import Iterator
from typing import NamedTuple

from hybridgen.spec import BackboneSpec, LayerSpec
from hybridgen.spec.mixers import AttentionSpec


class Place(NamedTuple):
    """Where a layer stands.

    Attributes:
        follows_attention: Whether an attention layer stands before it, whose values it may mix into its own.
        is_last: Whether it is the last of the stack.
        choosers: Head widths of the layers before it whose selection it computes anew, beside its own.
    """

    follows_attention: bool
    is_last: bool
    choosers: tuple[int, ...] = ()


def placed_layers(stack: BackboneSpec) -> Iterator[tuple[LayerSpec, Place]]:
    """Yields each layer with its place, first layer first."""
    follows = False
    chain: tuple[int, ...] = ()
    used: tuple[int, ...] = ()
    for index, layer in enumerate(stack.layers):
        mixer = layer.mixer
        choosers: tuple[int, ...] = ()
        if isinstance(mixer, AttentionSpec) and mixer.selective:
            source, own = mixer.selection_from, (mixer.head_dim_for(stack.d_model),)
            choosers = {"self": (), "guide": used}.get(source, chain)
            if source != "guide":
                used = choosers if source == "previous" else choosers + own
                chain += own
        yield layer, Place(follows, index == len(stack.layers) - 1, choosers)
        follows = follows or isinstance(mixer, AttentionSpec)
