"""The configuration: a resolved spec, and what transformers reads off it."""

import copy
import os
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from hybridgen.errors import CheckpointError, Fault, SpecError, UnsupportedError
from hybridgen.hub.architecture import layer_types
from hybridgen.hub.configuration import SHIM_MODULE
from hybridgen.hub.shim import SHIM, SHIM_TEXT, is_shim
from hybridgen.output_file import replaced_file
from hybridgen.spec.ends import ClassifierHeadSpec, CodebooksInputSpec, LmHeadSpec, PatchesInputSpec, TokensInputSpec
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.model import LayerSpec, ModelSpec


class HybridgenConfig(PreTrainedConfig):
    """Configuration of a model built from a spec.

    The spec is the one place where the architecture stands. What other libraries ask a configuration for
    (`hidden_size`, `num_hidden_layers`, `layer_types` and so on) is worked out of it, and not written to config.json.

    Args:
        spec: The document of a spec, resolved or not, as in YAML.
        use_cache: Whether a call outside of training returns a cache.
    """

    # What `resolved` keeps is no field: it stands outside of what is compared, and written to config.json.
    __slots__ = ("_resolved",)

    model_type: ClassVar[str] = "hybridgen"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    # Only the layers; what stands around them is whole on every device.
    base_model_fsdp_plan: ClassVar[dict[Any, str]] = {"layers.*": "free_full_weight"}

    spec: dict[str, Any] | None = None
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.spec = self.spec
        kwargs.pop("hybridgen_version", None)
        head = self.resolved().head
        if isinstance(head, ClassifierHeadSpec) and self.id2label is None:
            kwargs.setdefault("num_labels", head.num_classes)
        super().__post_init__(**kwargs)

    def __setattr__(self, key: str, value: Any) -> None:
        """Sets a field; a spec is checked and resolved, and what it holds is refused beside it.

        Raises:
            SpecError: If the document is not a valid spec.
            UnsupportedError: If transformers has no words for the model, or the value is not the spec's.
        """
        if key == "spec":
            spec = ModelSpec.model_validate(_SMALLEST if value is None else value)
            if isinstance(spec.input, CodebooksInputSpec):
                raise UnsupportedError(
                    f"{spec.name or 'the model'}: no class of transformers reads codes; use hg.build or hg.load"
                )
            value = spec.document()
            # A copy, to notice when somebody changes the document in place.
            super().__setattr__("_resolved", (copy.deepcopy(value), spec))
        elif key in _DERIVED:
            if value != getattr(self, key):
                raise UnsupportedError(
                    f"{key} stands in the spec, as {getattr(self, key)!r}, and cannot be {value!r} beside it; change "
                    f"the spec"
                )
            return
        super().__setattr__(key, value)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Does nothing: directories of ours hold a file that imports this package, not a copy of one file of it."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Makes the configuration that a config.json holds; see `PreTrainedConfig.from_dict`.

        Raises:
            SpecError: If it holds no spec, or one with faults.
            UnsupportedError: If something beside the spec contradicts it, or has the name of a method.
        """
        if config_dict.get("spec") is None:
            rule = "a configuration of a hybridgen model holds its spec, and this one holds none"
            raise SpecError(
                [Fault(None, None, None, "spec", rule, "save the model again, or use HybridgenConfig(spec=...)")]
            )
        for key in config_dict:
            if key == "_resolved" or callable(getattr(cls, key, None)):
                raise UnsupportedError(f"config.json: {key} is no field of a configuration; remove it")
        sources = (kwargs,) if "spec" in kwargs else (config_dict, kwargs)
        given = [source[_TIED] for source in sources if source.get(_TIED) is not None]
        config_dict = {key: value for key, value in config_dict.items() if key != _TIED}
        kwargs.pop(_TIED, None)
        made = super().from_dict(config_dict, **kwargs)
        config = made[0] if isinstance(made, tuple) else made
        if any(value != config.tie_word_embeddings for value in given):
            tied = config.tie_word_embeddings
            raise UnsupportedError(
                f"{_TIED} stands in the spec, as {tied}, and the weights were saved so: it cannot be {not tied} beside "
                f"it; load the model, set config.{_TIED}, and give lm_head a weight of its own"
            )
        return made

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes config.json, and the file that `trust_remote_code=True` needs, if it speaks of it.

        Raises:
            CheckpointError: If somebody else's file of that name is there.
        """
        shim = Path(save_directory) / SHIM
        if shim.is_file() and not is_shim(shim):
            raise CheckpointError(f"{shim}: not written by hybridgen; move it, or name another directory")
        super().save_pretrained(save_directory, push_to_hub, **kwargs)
        if SHIM_MODULE in str(getattr(self, "auto_map", None)):
            with replaced_file(shim) as staging:
                staging.write_text(SHIM_TEXT, encoding="utf-8")

    @classmethod
    def from_spec(cls, spec: ModelSpec, **kwargs: Any) -> "HybridgenConfig":
        """Makes the configuration of a spec, with fields of `PreTrainedConfig` beside it."""
        return cls(spec=spec.document(), **kwargs)

    def resolved(self) -> ModelSpec:
        """Returns the spec as an object.

        Raises:
            SpecError: If `spec` is no valid document.
        """
        if self._resolved[0] != self.spec:
            self.spec = self.spec
        spec: ModelSpec = self._resolved[1]
        return spec

    def with_spec(self, document: dict[str, Any]) -> "HybridgenConfig":
        """Returns a copy with another spec."""
        other = copy.deepcopy(self)
        other.spec = document
        return other

    def to_dict(self) -> dict[str, Any]:
        """Returns what config.json holds, the spec resolved."""
        return super().to_dict() | {"spec": self.resolved().document()}

    @property
    def hidden_size(self) -> int:
        """Width D of the stack."""
        return self.resolved().backbone.d_model

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the stack."""
        return len(self.resolved().backbone.layers)

    @property
    def layer_types(self) -> list[str]:
        """What each layer is, in transformers' words."""
        return layer_types(self.resolved())

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table; 0 where no tokens are read."""
        source = self.resolved().input
        if isinstance(source, TokensInputSpec):
            return source.padded_vocab_size()
        return source.vocab_size if isinstance(source, CodebooksInputSpec) else 0

    @vocab_size.setter
    def vocab_size(self, size: int) -> None:
        if size == self.vocab_size:
            return
        document = self.resolved().document()
        if document["input"]["type"] != "tokens":
            raise UnsupportedError("vocab_size can be set where the model reads tokens (input: {type: tokens}) only")
        document["input"] |= {"vocab_size": size, "pad_vocab_size_multiple": 1}
        self.spec = document

    @property
    def tie_word_embeddings(self) -> bool:
        """Whether the head of a language model is the embedding table."""
        head = self.resolved().head
        return isinstance(head, LmHeadSpec) and head.tie_embeddings

    @tie_word_embeddings.setter
    def tie_word_embeddings(self, value: bool) -> None:
        document = self.resolved().document()
        if value != self.tie_word_embeddings and document["head"]["type"] == "lm":
            document["head"]["tie_embeddings"] = value
            self.spec = document

    @property
    def initializer_range(self) -> float:
        """Standard deviation that embeddings start with."""
        return self.resolved().backbone.init.initializer_range

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images; None where none are read."""
        source = self.resolved().input
        return source.size() if isinstance(source, PatchesInputSpec) else None

    @property
    def num_channels(self) -> int | None:
        """Channels of the images; None where none are read."""
        source = self.resolved().input
        return source.channels if isinstance(source, PatchesInputSpec) else None

    @property
    def num_attention_heads(self) -> int:
        """Query heads of the first attention layer; 0 without one."""
        return next((layer.num_heads for layer in self._attention()), 0)

    @property
    def num_key_value_heads(self) -> int:
        """Key heads of the first attention layer; 0 without one."""
        return next((layer.kv_heads() for layer in self._attention()), 0)

    @property
    def head_dim(self) -> int:
        """Channels per head of the first attention layer; 0 without one."""
        return next((layer.head_dim_for(self.hidden_size) for layer in self._attention()), 0)

    @property
    def sliding_window(self) -> int | None:
        """The widest window of the attention layers that have one; None without such."""
        windows = [layer.window for layer in self._attention() if layer.window is not None]
        return max(windows, default=None)

    def _attention(self) -> list[AttentionSpec]:
        mixers = [layer.mixer for layer in self.resolved().backbone.layers]
        return [mixer for mixer in mixers if isinstance(mixer, AttentionSpec)]


def state_is_whole(spec: ModelSpec) -> bool:
    """Tells whether some layer's state is changed as a whole by every token, so that none can be taken back."""
    return any(mixer_is_whole(layer) for layer in spec.backbone.layers)


def mixer_is_whole(layer: LayerSpec) -> bool:
    """Tells whether every token changes a layer's state as a whole."""
    mixer = layer.mixer
    if isinstance(mixer, AttentionSpec):
        return mixer.window is not None or bool(mixer.d_conv) or mixer.selective
    return mixer is not None


_TIED = "tie_word_embeddings"

_DERIVED = (
    "hidden_size",
    "num_hidden_layers",
    "layer_types",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "initializer_range",
    "image_size",
    "num_channels",
)
"""What is worked out of the spec, and can be given beside it only as it is."""

_SMALLEST = {
    "backbone": {"d_model": 8, "n_layer": 1, "ssm": {"d_state": 8}},
    "input": {"type": "tokens", "vocab_size": 8},
    "head": {"type": "lm"},
}
"""What `HybridgenConfig()` is: transformers makes configurations without arguments to compare with."""
