"""The stack of layers between the embeddings and the head."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from hybridgen.errors import ShapeError, UnsupportedError
from hybridgen.layers.carry import Carry
from hybridgen.layers.drop_path import drop_path, drop_path_rates
from hybridgen.layers.linear import BranchOutput, Embedding
from hybridgen.layers.mixers.base import MixerState
from hybridgen.layers.norms import Norm
from hybridgen.layers.rotary_grid import grid_table, turned
from hybridgen.layers.span import Span
from hybridgen.model.block import Block
from hybridgen.ops.add_norm.plain import added
from hybridgen.spec.ends import PatchesInputSpec, TokensInputSpec
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.model import ModelSpec

# Tokens read at once through a stack that hands on attention scores, without gradients.
_PIECE = 256


class Stack(nn.Module):
    """Token embedding (if the model reads tokens), layers and last norm. Parameter names are mamba-ssm's.

    It is put together by `assemble`, so that classes of other libraries can be such a stack too.

    Attributes:
        state_key: Hash of the backbone's spec, by which a decoding state is known to belong to it.
        memory_count: Number of memory tokens.
        selects: Whether any layer is selective.
    """

    def assemble(self, spec: ModelSpec) -> None:
        """Makes the parts that a spec describes."""
        stack = spec.backbone
        self.state_key = hashlib.sha256(stack.model_dump_json().encode()).hexdigest()
        self.selects = any(getattr(layer.mixer, "selective", False) for layer in stack.layers)
        self.memory_count = spec.input.memory_tokens if isinstance(spec.input, TokensInputSpec) else 0
        self.d_model = stack.d_model
        self.residual_in_fp32 = stack.residual_in_fp32
        self.embedding: Embedding | None = None
        self.embed_dropout = 0.0
        if isinstance(spec.input, TokensInputSpec):
            rows = spec.input.padded_vocab_size()
            self.embedding = Embedding(rows, stack.d_model, stack.init.initializer_range, spec.input.embed_scale)
            self.std = stack.init.initializer_range
            if self.memory_count:
                self.memory_tokens = nn.Parameter(torch.empty(self.memory_count, stack.d_model))
            self.embed_dropout = spec.input.dropout
        self.layer_dropout = stack.layer_dropout
        self.norms_sum = stack.norm_placement == "residual"
        self.ends_with_mlp = stack.layers[-1].mlp is not None
        # Where attention sees later tokens there is no state to read pieces with.
        causal = all(layer.mixer is None or layer.mixer.is_causal() for layer in stack.layers)
        self.hands_on_scores = stack.residual_attn is not None and causal
        shares = any(getattr(layer.mixer, "selection_from", "self") != "self" for layer in stack.layers)
        # Calls a layer with its arguments where gradients are needed; set by `model.checkpointing`.
        self.run_layer: Callable[..., Any] | None = None
        self.hands_on = stack.residual_attn is not None or stack.value_residual != "none" or shares
        count = len(stack.layers)
        kinds = [isinstance(layer.mixer, AttentionSpec) for layer in stack.layers]
        first = kinds.index(True) if any(kinds) else None
        self.in_pairs = stack.bidirectional == "layers"
        self.halves_pairs = stack.bidirectional_merge == "mean"
        rates = drop_path_rates(stack.drop_path, count)
        self.last_drop_rate = stack.drop_path
        self.rotary, self.rotary_unit = "none", 0
        if isinstance(spec.input, PatchesInputSpec):
            self.rotary, self.rotary_unit = spec.input.rotary, spec.input.rotary_grid
        self.layers = nn.ModuleList(
            Block(layer, stack, index == first, index == count - 1, (before, rates[index]))
            for index, (layer, before) in enumerate(zip(stack.layers, [0.0, *rates], strict=False))
        )
        has_bias = True if stack.norm.final_bias else None
        self.norm_f = Norm(stack.norm, stack.d_model, bias=has_bias)
        if stack.init.rescale_prenorm_residual:
            outputs = [module for module in self.modules() if isinstance(module, BranchOutput)]
            for output in outputs:
                output.init_scale = len(outputs) ** -0.5

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value of `memory_tokens`: that of token embeddings."""
        return torch.empty(self.memory_tokens.shape, device="cpu").normal_(0.0, self.std, generator=generator)

    def run(
        self,
        x: Shaped[Tensor, "B T *D"],
        state: Sequence[MixerState | None] | None = None,
        span: Span | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Runs the stack.

        Args:
            x: Token ids (B, T) if the model reads tokens, or hidden states (B, T, D) in any case.
            state: State of each layer, advanced in place.
            span: Where the tokens stand; None is a plain batch that begins at slot 0.
        Returns:
            Hidden states after the last norm, in the weights' dtype.

        Raises:
            ShapeError: If the tokens are turned by row and column (`rotary`), and the span does not say how they lie.
        """
        span = span or Span(0, x.shape[1], x.device)
        in_pieces = self.hands_on_scores and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        # With layer dropout all tokens of a call leave out the same layers.
        if in_pieces and x.shape[1] > _PIECE and not (self.training and self.layer_dropout):
            return self._by_pieces(x, state, span)
        branch = self.embed(x) if self.embedding is not None and not x.is_floating_point() else x
        skips = self._skips(state)
        branch, residual, _ = self._run(branch, state, span, skips)
        return self._end(branch, residual, skips)

    def forward_layers(
        self,
        x: Float[Tensor, "B T D"],
        span: Span,
        layers: Sequence[int],
        state: Sequence[MixerState | None] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], list[Float[Tensor, "B T D"]]]:
        """Runs the stack, and also returns the residual stream behind some layers.

        Args:
            x: Hidden states.
            span: Where the tokens stand.
            layers: Indices of the layers; with layers in pairs, those of the second of a pair.
            state: State of each layer, advanced in place.
        Returns:
            What `run` returns, and the stream behind each of these layers, in their order, before the last norm.
        """
        skips = self._skips(state)
        branch, residual, found = self._run(x, state, span, skips, set(layers))
        return self._end(branch, residual, skips), [found[index] for index in layers]

    def _end(self, branch: Tensor, residual: Tensor | None, skips: list[list[bool]]) -> Tensor:
        if self.norms_sum and skips[-1][self.ends_with_mlp]:
            return branch  # norm_f is the norm behind the branch that was left out
        if residual is not None:
            branch = drop_path(branch, self.last_drop_rate, self.training)
        normed: Tensor = self.norm_f(branch, residual)
        return normed

    def _run(
        self,
        branch: Float[Tensor, "B T D"],
        state: Sequence[MixerState | None] | None,
        span: Span,
        skips: list[list[bool]],
        wanted: Collection[int] = (),
    ) -> tuple[Tensor, Tensor | None, dict[int, Tensor]]:
        """Runs the layers; returns the last branch, the stream without it, and the streams behind the wanted layers."""
        residual: Tensor | None = None
        stream = branch.dtype
        if self.residual_in_fp32 and stream != torch.float64:
            stream = torch.float32
        carry = Carry() if self.hands_on else None
        backwards = span.reversed() if self.in_pairs else span
        table = self._rotary_table(span, branch.dtype)
        found: dict[int, Tensor] = {}
        given = (branch, residual)
        for index, layer in enumerate(self.layers):
            is_second = self.in_pairs and index % 2 == 1
            if table is not None and not is_second:
                branch = turned(branch, table)
                residual = turned(residual, table) if self.rotary == "residual" and residual is not None else residual
            memory = None if state is None else state[index]
            if is_second:
                branch, residual = self._second(layer, given, (branch, residual), stream, backwards, skips[index])
            else:
                given = (branch, residual)
                arguments = (branch, residual, stream, memory, span, carry, skips[index])
                branch, residual, carry = self._call(layer, *arguments)
            if index in wanted:
                found[index] = added(branch, residual).to(branch.dtype)
        return branch, residual, found

    def _call(
        self,
        layer: nn.Module,
        branch: Tensor,
        residual: Tensor | None,
        stream: torch.dtype,
        state: MixerState | None,
        *rest: Any,
    ) -> tuple[Tensor, Tensor | None, Carry | None]:
        """Runs a layer, which keeps less for the backward pass if it is checkpointed."""
        run: Callable[..., Any] = layer
        if self.run_layer is not None and state is None and torch.is_grad_enabled():
            run = partial(self.run_layer, layer)
        result: tuple[Tensor, Tensor | None, Carry | None] = run(branch, residual, stream, state, *rest)
        return result

    def _second(
        self,
        layer: nn.Module,
        given: tuple[Tensor, Tensor | None],
        first: tuple[Tensor, Tensor | None],
        stream: torch.dtype,
        backwards: Span,
        skips: list[bool],
    ) -> tuple[Tensor, Tensor | None]:
        """Runs the second layer of a pair on the reversed sequence, and adds up what both hand on.

        Args:
            layer: It.
            given: Branch and stream that the pair was given.
            first: What the first layer hands on.
            stream: Dtype of the stream.
            backwards: Where the reversed tokens stand.
            skips: Whether to leave out its mixer, and its MLP.
        """
        before = None if given[1] is None else given[1].flip(1)
        branch, residual, _ = self._call(layer, given[0].flip(1), before, stream, None, backwards, None, skips)
        share = 0.5 if self.halves_pairs else 1.0
        assert residual is not None, "every layer of a pair hands on a stream"
        assert first[1] is not None, "every layer of a pair hands on a stream"
        return (first[0] + branch.flip(1)) * share, (first[1] + residual.flip(1)) * share

    def _rotary_table(self, span: Span, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        if self.rotary == "none":
            return None
        if span.grid is None:
            raise ShapeError(
                "rotary turns tokens by their row and column, and these are of no image; call the model on images"
            )
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return grid_table(span.grid, self.d_model, self.rotary_unit, wide, span.device)

    def _skips(self, state: Sequence[MixerState | None] | None) -> list[list[bool]]:
        """Draws which mixers and MLPs to leave out; none where a state would then lack what they remember."""
        if not (self.training and self.layer_dropout) or state is not None:
            return [[False, False]] * len(self.layers)
        if torch.compiler.is_compiling():
            raise UnsupportedError(
                "layer_dropout chooses the layers of each call, and a compiled graph has always the same ones; compile "
                "the layers, `for layer in model.backbone.layers: layer.compile()`, or write layer_dropout: 0"
            )
        drawn: list[list[bool]] = (torch.rand(len(self.layers), 2) < self.layer_dropout).tolist()
        return drawn

    def _by_pieces(
        self, x: Shaped[Tensor, "B T *D"], state: Sequence[MixerState | None] | None, span: Span
    ) -> Float[Tensor, "B T D"]:
        """Reads the tokens in pieces, each through all layers: no table of scores has more rows than a piece."""
        if state is None:
            state = self.init_state(x.shape[0], x.shape[1], self.norm_f.weight.dtype)
        cuts = [(begin, min(begin + _PIECE, x.shape[1])) for begin in range(0, x.shape[1], _PIECE)]
        return torch.cat([self.run(x[:, begin:end], state, span.part(begin, end)) for begin, end in cuts], dim=1)

    def init_state(
        self,
        batch_size: int,
        max_seqlen: int,
        dtype: torch.dtype,
        rollback: int = 0,
    ) -> list[MixerState | None]:
        """Makes an empty state of each layer's mixer, where it runs; see `model.reading.make_state`."""
        if self.in_pairs:
            raise UnsupportedError(
                "layers in pairs (bidirectional: layers) have no decoding state: every second layer reads backwards; "
                "call the model on whole sequences, without a state"
            )
        states = [
            None if block.mixer is None else block.mixer.init_state(batch_size, max_seqlen, dtype, device_of(block))
            for block in cast(list[Block], list(self.layers))
        ]
        for block, state in zip(cast(list[Block], list(self.layers)), states, strict=True) if rollback else ():
            if state is not None:
                block.check_rollback()
                state.keep_history(rollback)
        return states

    def embed(self, ids: Shaped[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Looks up token ids."""
        assert self.embedding is not None, "only a model that reads tokens embeds them"
        return self.dropped(self.embedding(ids))

    def dropped(self, rows: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Returns embeddings as the first layer gets them in training: some of them zero, as the spec's input says."""
        return functional.dropout(rows, self.embed_dropout, self.training) if self.embed_dropout else rows


def device_of(module: nn.Module) -> torch.device:
    """Returns where a module runs: where its weights are, or where hooks of accelerate bring them for each call."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", [hook]):
            place: torch.device | str | int | None = getattr(one, "execution_device", None)
            if place is not None:
                return torch.device(place)
    return next(module.parameters()).device


class Backbone(Stack):
    """The stack of a model of ours."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.assemble(spec)

    def forward(
        self,
        x: Shaped[Tensor, "B T *D"],
        state: Sequence[MixerState | None] | None = None,
        span: Span | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Runs the stack; see `Stack.run`."""
        return self.run(x, state, span)
