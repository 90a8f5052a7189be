"""The resolved form of a document: what the builder, the cost model, the importers and the pictures read."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

from hybridgen.spec.base import Spec
from hybridgen.spec.ends import HeadSpec, InputSpec
from hybridgen.spec.mixers import MixerSpec
from hybridgen.spec.parts import LayerCount, MlpSpec, Name, StackSettings
from hybridgen.spec.pattern import expand_pattern
from hybridgen.spec.resolve import resolve


class LayerSpec(Spec):
    """One layer: a mixer, an MLP, or a mixer followed by an MLP, each on a residual branch of its own."""

    mixer: MixerSpec | None = None
    """What mixes tokens; null for a layer that is only an MLP."""
    mlp: MlpSpec | None = None
    """The feed-forward part behind the mixer; null for none."""


class BackboneSpec(StackSettings):
    """A stack of layers, written as named blocks and a pattern of their names."""

    n_layer: LayerCount
    """Number of layers."""
    blocks: dict[str, LayerSpec]
    """The different layers of the stack, by name."""
    pattern: str
    """The order of the blocks: names, repeats and brackets, such as `(m*3 a)*5`."""

    @cached_property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The stack as a flat list, one spec per layer, first layer first."""
        return tuple(self.blocks[name] for name in expand_pattern(self.pattern))


class ModelSpec(Spec):
    """A whole model, checked and resolved. `ModelSpec.model_validate` takes any document, in short or long form."""

    name: Name | None = None
    """Name of the model: letters, digits, `.`, `_` and `-`."""
    input: InputSpec
    """What the model reads."""
    backbone: BackboneSpec
    """The stack of layers."""
    head: HeadSpec
    """What the model returns."""

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Checks and resolves a document given as a dict.

        Args:
            obj: The document, or a spec.
            options: None are taken; pydantic's, such as `strict`, would change what a document means.

        Raises:
            SpecError: With every fault of the document, if there is one.
        """
        if options:
            raise TypeError(f"ModelSpec.model_validate takes no options; given {', '.join(options)}")
        return obj if isinstance(obj, cls) else cls.from_resolved(resolve(obj))

    @classmethod
    def from_resolved(cls, document: Mapping[str, Any]) -> Self:
        """Makes the spec from what `resolve` returned."""
        return super().model_validate(document)

    def document(self) -> dict[str, Any]:
        """Returns the resolved spec as plain data: a valid document in long form that resolves to itself."""
        return self.model_dump(mode="json", exclude_none=False)
