"""The stack of layers between the embeddings and the head."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from hybridgen.errors import UnsupportedError
from hybridgen.layers.carry import Carry
from hybridgen.layers.linear import BranchOutput, Embedding
from hybridgen.layers.mixers.base import MixerState
from hybridgen.layers.norms import Norm
from hybridgen.layers.span import Span
from hybridgen.model.block import Block
from hybridgen.spec.ends import TokensInputSpec
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.model import ModelSpec

# Tokens read at once through a stack that hands on attention scores, without gradients.
_PIECE = 256


class Backbone(nn.Module):
    """Token embedding (if the model reads tokens), layers and last norm. Parameter names are mamba-ssm's."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        stack = spec.backbone
        self.d_model = stack.d_model
        self.residual_in_fp32 = stack.residual_in_fp32
        self.embedding: Embedding | None = None
        self.embed_scale, self.embed_dropout = 1.0, 0.0
        if isinstance(spec.input, TokensInputSpec):
            rows = spec.input.padded_vocab_size()
            self.embedding = Embedding(rows, stack.d_model, stack.init.initializer_range)
            self.std = stack.init.initializer_range
            if spec.input.memory_tokens:
                self.memory_tokens = nn.Parameter(torch.empty(spec.input.memory_tokens, stack.d_model))
            self.embed_scale, self.embed_dropout = spec.input.embed_scale, spec.input.dropout
        self.layer_dropout = stack.layer_dropout
        self.norms_sum = stack.norm_placement == "residual"
        self.ends_with_mlp = stack.layers[-1].mlp is not None
        # Where attention sees later tokens there is no state to read pieces with.
        causal = all(layer.mixer is None or getattr(layer.mixer, "causal", True) for layer in stack.layers)
        self.hands_on_scores = stack.residual_attn is not None and causal
        shares = any(getattr(layer.mixer, "selection_from", "self") != "self" for layer in stack.layers)
        self.hands_on = stack.residual_attn is not None or stack.value_residual != "none" or shares
        count = len(stack.layers)
        kinds = [isinstance(layer.mixer, AttentionSpec) for layer in stack.layers]
        first = kinds.index(True) if any(kinds) else None
        self.layers = nn.ModuleList(
            Block(layer, stack, index == first, index == count - 1) for index, layer in enumerate(stack.layers)
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

    def forward(
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
        """
        span = span or Span(0, x.shape[1], x.device)
        in_pieces = self.hands_on_scores and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        # With layer dropout all tokens of a call leave out the same layers.
        if in_pieces and x.shape[1] > _PIECE and not (self.training and self.layer_dropout):
            return self._by_pieces(x, state, span)
        branch = self.embed(x) if self.embedding is not None and not x.is_floating_point() else x
        residual: Tensor | None = None
        stream = branch.dtype
        if self.residual_in_fp32 and stream != torch.float64:
            stream = torch.float32
        carry = Carry() if self.hands_on else None
        skips = self._skips(state)
        for index, layer in enumerate(self.layers):
            memory = None if state is None else state[index]
            branch, residual, carry = layer(branch, residual, stream, memory, span, carry, skips[index])
        if self.norms_sum and skips[-1][self.ends_with_mlp]:
            return branch  # norm_f is the norm behind the branch that was left out
        normed: Tensor = self.norm_f(branch, residual)
        return normed

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
        return torch.cat([self(x[:, begin:end], state, span.part(begin, end)) for begin, end in cuts], dim=1)

    def init_state(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype, rollback: int = 0
    ) -> list[MixerState | None]:
        """Makes an empty state of each layer's mixer, on the weights' device; see `HybridModel.init_state`."""
        device = self.norm_f.weight.device
        states = [
            None if block.mixer is None else block.mixer.init_state(batch_size, max_seqlen, dtype, device)
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
        rows: Tensor = self.embedding(ids)
        rows = rows if self.embed_scale == 1.0 else rows * self.embed_scale
        return functional.dropout(rows, self.embed_dropout, self.training) if self.embed_dropout else rows
