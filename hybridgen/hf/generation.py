"""What `generate` asks of a model, in our words: caches that are ours from the start, and which ways of decoding go."""

from typing import Any

from torch import Tensor
from transformers import GenerationMixin
from transformers.generation.configuration_utils import GenerationMode

from hybridgen.errors import UnsupportedError
from hybridgen.hf.modeling import HybridgenModel


class HybridgenGenerationMixin(GenerationMixin):
    """`GenerationMixin` for our models.

    Attributes:
        backbone: The stack.
    """

    backbone: HybridgenModel

    @staticmethod
    def create_masks_for_generate(attention_mask: Tensor | None = None, **_: Any) -> Tensor | None:
        """Returns the mask of `generate` as it is: our layers read no mask per pair of tokens."""
        return attention_mask

    def _prepare_cache_for_generation(  # type: ignore[override]  # nothing of its own is named here but two
        self: Any, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Makes the cache, and puts our layers into it: an empty one of a pure Mamba cannot even tell its length."""
        kind = generation_config.cache_implementation
        if kind is not None and ("quantized" in kind or "offloaded" in kind):
            raise UnsupportedError(
                f"the states of hybridgen's models can be neither quantized nor offloaded; given "
                f"cache_implementation={kind!r}: leave it out, or write 'static'"
            )
        if not self.backbone.has_state:
            raise UnsupportedError("generate needs layers that see earlier tokens only; these see later ones too")
        if generation_config.is_assistant:
            self._check_takes_back()
        super()._prepare_cache_for_generation(  # type: ignore[misc]  # its self is a protocol of theirs
            generation_config, model_kwargs, *args, **kwargs
        )
        cache = model_kwargs.get("past_key_values")
        if cache is not None:
            self.backbone.shared_state(cache)

    def _get_static_cache_init_shape(self) -> None:
        """Says that no static cache is to be filled in advance: the model itself makes what goes into it."""

    def _validate_generation_mode(self: Any, generation_mode: Any, generation_config: Any, mode_kwargs: Any) -> None:
        if generation_mode == GenerationMode.ASSISTED_GENERATION:
            self._check_takes_back()
        super()._validate_generation_mode(  # type: ignore[misc]  # as above
            generation_mode, generation_config, mode_kwargs
        )

    def _check_takes_back(self: Any) -> None:
        if not self.backbone.can_crop:
            raise UnsupportedError(
                f"assisted decoding (assistant_model, prompt_lookup_num_tokens) takes rejected tokens back, which "
                f"{self.backbone.whole_layers()} cannot do: every token changes their state as a whole; leave it out, "
                f"or take an assistant of attention alone, without windows, convolutions and selection"
            )
