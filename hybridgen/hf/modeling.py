"""The stack as a model of transformers: ids, masks and caches in its words, layers and numbers ours."""

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import can_return_tuple

from hybridgen.errors import HybridgenError, ShapeError, UnsupportedError
from hybridgen.hf.attention import attend_by_interface
from hybridgen.hf.cache import SharedState, new_cache, state_of
from hybridgen.hf.config import HybridgenConfig, mixer_is_whole, state_is_whole
from hybridgen.hf.inputs import Arranged, arrange, check_tensor
from hybridgen.hf.offloading import load_layers_whole
from hybridgen.hub.architecture import AUTO_CLASSES
from hybridgen.hub.configuration import auto_map
from hybridgen.integrations.liger import apply_to_new
from hybridgen.layers.linear import Initialised
from hybridgen.layers.mixers.base import MixerState
from hybridgen.layers.mixers.residual_attention import ResidualAttention
from hybridgen.layers.span import Span
from hybridgen.model.backbone import Stack
from hybridgen.model.decay import no_weight_decay
from hybridgen.model.reading import Reading, read
from hybridgen.spec.model import ModelSpec

Layers = Sequence[MixerState | None] | None


def checked(config: object) -> HybridgenConfig:
    """Returns a configuration of ours.

    Raises:
        HybridgenError: If it is another one, or none.
    """
    if not isinstance(config, HybridgenConfig):
        raise HybridgenError(
            f"a hybridgen model takes a HybridgenConfig; given {type(config).__name__}: HybridgenConfig.from_spec "
            f"makes one of a spec"
        )
    return config


class HybridgenPreTrainedModel(PreTrainedModel):
    """What all our classes have in common.

    Parameters have the names that they have in models from `hg.build`.
    """

    config_class = HybridgenConfig
    config: HybridgenConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules: list[str] = ["Block"]
    _skip_keys_device_placement: list[str] = ["past_key_values"]
    _input_embed_layer = "embedding"
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @property
    def spec(self) -> ModelSpec:
        """The resolved spec."""
        return self.config.resolved()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Opens a directory or a repository; see `PreTrainedModel.from_pretrained`."""
        opened = super().from_pretrained(*args, **kwargs)
        load_layers_whole(opened[0] if isinstance(opened, tuple) else opened)
        return opened

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True

    def no_weight_decay(self) -> set[str]:
        """Returns the names of weights that a recipe should not decay, besides biases and norms; see `HybridModel`."""
        return no_weight_decay(self)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Does nothing: directories of ours hold a file that imports this package, not a copy of one file of it."""

    def post_init(self) -> None:
        """Ends the making of a model: as in transformers, and with the kernels that Liger was asked for before it."""
        super().post_init()
        apply_to_new(self)

    def _init_weights(self, module: nn.Module) -> None:
        if not isinstance(module, Initialised):
            super()._init_weights(module)
            return
        # From torch's own stream of random numbers, as everywhere in transformers.
        seed = int(torch.randint(2**63 - 1, ()))
        generator = torch.Generator(device="cpu").manual_seed(seed)
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.is_meta and not getattr(parameter, "_is_hf_initialized", False):
                init.copy_(parameter, module.initial_value(name, generator).to(parameter.device))

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Changes the number of rows of the embedding table; see `PreTrainedModel`.

        Raises:
            ShapeError: If the number is no integer of at least 1; the model is left as it was.
        """
        multiple = args[0] if args else kwargs.get("pad_to_multiple_of")
        for name, given in (("new_num_tokens", new_num_tokens), ("pad_to_multiple_of", multiple)):
            is_one = isinstance(given, Integral) and not isinstance(given, bool) and int(given) >= 1
            if given is not None and not is_one:
                raise ShapeError(f"resize_token_embeddings: {name} must be an integer of at least 1; given {given!r}")
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = torch.utils.checkpoint.checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        for stack in (module for module in self.modules() if isinstance(module, Stack)):
            _checkpoint(stack, gradient_checkpointing_func if enable else None, every_n_layers)

    def save_pretrained(  # type: ignore[override]  # its many options are handed on
        self, save_directory: Any, is_main_process: bool = True, **kwargs: Any
    ) -> None:
        """Saves the model as transformers does; its configuration adds the file for `trust_remote_code=True`."""
        name = type(self).__name__
        if name in AUTO_CLASSES:
            self.config.auto_map = auto_map(name)
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)


class HybridgenModel(HybridgenPreTrainedModel, Stack):
    """Embeddings, layers and last norm: token ids or embeddings in, hidden states out.

    Raises:
        UnsupportedError: If the spec reads codes of a neural codec, for which transformers has no words.
    """

    def __init__(self, config: HybridgenConfig) -> None:
        super().__init__(checked(config))
        self.assemble(self.spec)
        self.attending = attend_by_interface(self, config)
        self.gradient_checkpointing = False
        keep_islands(self)
        self.can_crop = not state_is_whole(self.spec)
        self.is_causal = all(layer.mixer is None or layer.mixer.is_causal() for layer in self.spec.backbone.layers)
        self.has_state = self.is_causal and not self.in_pairs
        # Says why assisted decoding is refused; see generate.
        self._is_stateful = not self.can_crop
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        seq_idx: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Runs the stack.

        Args:
            input_ids: (B, T) token ids.
            attention_mask: (B, tokens in the cache + T), zero for padding, which may stand anywhere.
            position_ids: (B, T), counting up by one; where they begin again at 0 a packed row's next sequence begins.
            past_key_values: A `DynamicCache` or `StaticCache`, advanced in place.
            inputs_embeds: (B, T, D) what is read instead of the embeddings of `input_ids`.
            use_cache: Whether to return a cache; None is the configuration's `use_cache`, and False in training.
            output_hidden_states: Whether to return the tokens in front of the layers, the streams behind all but the
                last (with `bidirectional: layers` behind each pair), and the hidden states at the end.
            output_attentions: Whether to return the weights (B, H, T, S) of each layer of plain softmax attention, and
                of no other; needs `attn_implementation="eager"`. S counts the keys that the layer holds: under a window
                not all, and memory tokens too, which stand before each row's first real token.
            seq_idx: (B, T) integers, the number of each token's sequence in packed rows.
            **kwargs: Left alone: what other libraries hand through.

        Raises:
            ShapeError: If the tensors do not fit each other.
            UnsupportedError: If masks, positions or caches say what these layers cannot follow.
        """
        x = self._input(input_ids, inputs_embeds)
        cache, shared = self._cache(past_key_values, use_cache)
        state = None
        if shared is not None:
            state = shared.prepare(self, x.shape[0], x.shape[1])
        given = arrange(x, attention_mask, position_ids, seq_idx, state)
        streams: list[Tensor] = []
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        weights = self.attending.recorded(output_attentions)

        def run(tokens: Tensor, layers: Layers, span: Span) -> Tensor:
            if not wanted:
                return self.run(tokens, layers, span)
            tokens = tokens if tokens.is_floating_point() else self.embed(tokens)
            last, found = self.forward_layers(tokens, span, layers_with_streams(self), layers)
            streams.extend([tokens, *found[:-1]])
            return last

        try:
            reading = read(self, given.x, state, given.mask, given.seq_idx, run)
        finally:
            self.attending.weights = None
        hidden = given.restored(reading.hidden)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=cache,
            hidden_states=(*(given.restored(reading.own(one)) for one in streams), hidden) if wanted else None,
            attentions=None if weights is None else tuple(self._in_order(one, given, reading) for one in weights),
        )

    def _in_order(self, weights: Tensor, given: Arranged, reading: Reading) -> Tensor:
        """Returns weights (B, H, T, S) of attention with the queries, and this call's keys, in the caller's order."""
        heads, places = weights.shape[1], given.places
        rows = given.restored(reading.own(weights.transpose(1, 2).flatten(2)))
        weights = rows.unflatten(2, (heads, -1)).transpose(1, 2)
        if places is None or self.memory_count:
            return weights
        earlier, own = weights.tensor_split([weights.shape[3] - places.shape[1]], dim=3)
        return torch.cat((earlier, own.take_along_dim(places[:, None, None], dim=3)), dim=3)

    def _input(self, ids: Tensor | None, embeddings: Tensor | None) -> Tensor:
        if (ids is None) == (embeddings is None):
            raise ShapeError("give either input_ids or inputs_embeds")
        check_tensor(ids if embeddings is None else embeddings, "input_ids" if embeddings is None else "inputs_embeds")
        if ids is None:
            assert embeddings is not None
            if embeddings.ndim != 3 or embeddings.shape[2] != self.d_model or not embeddings.is_floating_point():
                raise ShapeError(
                    f"inputs_embeds must be of shape (batch, tokens, {self.d_model}); given {tuple(embeddings.shape)} "
                    f"of {embeddings.dtype}"
                )
            return self.dropped(embeddings)
        if self.embedding is None:
            raise UnsupportedError("this model reads no tokens; give inputs_embeds (batch, tokens, d_model)")
        if ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
            raise ShapeError(f"input_ids must be integers (batch, tokens); given {tuple(ids.shape)} of {ids.dtype}")
        if ids.device.type == "cpu" and ids.numel() and not torch.compiler.is_compiling():
            low, high = (int(bound) for bound in torch.aminmax(ids))
            rows = self.embedding.weight.shape[0]
            if low < 0 or high >= rows:
                raise ShapeError(f"input_ids must be in 0 ... {rows - 1}; given {low if low < 0 else high}")
        return ids

    def _cache(self, cache: Any, use_cache: bool | None) -> tuple[Any, SharedState | None]:
        """Returns the cache to use, and the state inside; None twice for none."""
        if use_cache is None:
            # Nothing reads the cache of a training step.
            use_cache = self.config.use_cache and not self.training and self.has_state
        if cache is None and use_cache:
            if not self.has_state:
                raise UnsupportedError("layers that see later tokens have no decoding state: write use_cache=False")
            cache = new_cache(self.config)
        return cache, None if cache is None else self.shared_state(cache)

    def shared_state(self, cache: Any) -> SharedState:
        """Returns the state inside a cache of transformers, whose layers become ours if it is new."""
        return state_of(cache, len(self.layers), None if self.can_crop else self.whole_layers())

    def whole_layers(self) -> str:
        """Names the layers of whose state no token can be taken back."""
        whole = [(index, layer.mixer) for index, layer in enumerate(self.spec.backbone.layers) if mixer_is_whole(layer)]
        kinds = ", ".join(dict.fromkeys(mixer.type for _, mixer in whole if mixer is not None))
        return f"layers {', '.join(str(index) for index, _ in whole)} ({kinds})"


def layers_with_streams(stack: Stack) -> range:
    """Returns the layers behind which there is a stream of the whole: of a pair the second one."""
    every = 2 if stack.in_pairs else 1
    return range(every - 1, len(stack.layers), every)


def keep_islands(model: nn.Module) -> None:
    """Widens to float32 the parameters that need it, where the model is made in a narrower dtype."""
    for module in model.modules():
        for name in getattr(module, "float32_parameters", ()):
            parameter = getattr(module, name)
            if parameter.dtype in (torch.float16, torch.bfloat16):
                setattr(module, name, nn.Parameter(parameter.data.float(), requires_grad=parameter.requires_grad))


def _checkpoint(stack: Stack, function: Callable[..., Any] | None, every: int) -> None:
    mixers = [mixer for mixer in stack.modules() if isinstance(mixer, ResidualAttention)]
    if function is not None and any(mixer.residual.training == "table" for mixer in mixers):
        raise UnsupportedError(
            "layers that are computed again cannot share one table of scores; write residual_attn: {training: products}"
        )
    for mixer in mixers:
        mixer.runs_again = function is not None
    for index, layer in enumerate(stack.layers):
        layer.gradient_checkpointing = function is not None and index % every == 0  # type: ignore[assignment]
    stack.gradient_checkpointing = function is not None  # type: ignore[assignment]
    stack.run_layer = None if function is None else partial(_run_layer, function)


def _run_layer(function: Callable[..., Any], layer: nn.Module, *arguments: Any) -> Any:
    return function(layer, *arguments) if layer.gradient_checkpointing else layer(*arguments)
