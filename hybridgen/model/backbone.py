"""The stack of layers between the embeddings and the head."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from hybridgen.layers.linear import BranchOutput, Embedding
from hybridgen.layers.norms import Norm
from hybridgen.layers.span import Span
from hybridgen.model.block import Block
from hybridgen.model.state import DecodingState
from hybridgen.spec.ends import TokensInputSpec
from hybridgen.spec.model import ModelSpec


class Backbone(nn.Module):
    """Token embedding (if the model reads tokens), layers and last norm. Parameter names are mamba-ssm's."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        stack = spec.backbone
        self.d_model = stack.d_model
        self.residual_in_fp32 = stack.residual_in_fp32
        self.embedding: Embedding | None = None
        self.embed_scale = 1.0
        if isinstance(spec.input, TokensInputSpec):
            rows = spec.input.padded_vocab_size()
            self.embedding = Embedding(rows, stack.d_model, stack.init.initializer_range)
            self.embed_scale = spec.input.embed_scale
        count = len(stack.layers)
        self.layers = nn.ModuleList(Block(layer, stack, index == count) for index, layer in enumerate(stack.layers, 1))
        has_bias = True if stack.norm.final_bias else None
        self.norm_f = Norm(stack.norm, stack.d_model, bias=has_bias)
        if stack.init.rescale_prenorm_residual:
            outputs = [module for module in self.modules() if isinstance(module, BranchOutput)]
            for output in outputs:
                output.init_scale = len(outputs) ** -0.5

    def forward(
        self, x: Shaped[Tensor, "B T *D"], state: DecodingState | None = None, span: Span | None = None
    ) -> Float[Tensor, "B T D"]:
        """Runs the stack.

        Args:
            x: Token ids (B, T) if the model reads tokens, or hidden states (B, T, D) in any case.
            state: Decoding state, whose layers are advanced in place; the caller advances its length.
            span: Where the tokens stand; None is a plain batch that begins at slot 0.
        Returns:
            Hidden states after the last norm, in the weights' dtype.
        """
        branch = self.embed(x) if self.embedding is not None and not x.is_floating_point() else x
        span = span or Span(0, x.shape[1], x.device)
        residual: Tensor | None = None
        stream = branch.dtype
        if self.residual_in_fp32 and stream != torch.float64:
            stream = torch.float32
        for index, layer in enumerate(self.layers):
            memory = None if state is None else state.layers[index]
            branch, residual = layer(branch, residual, stream, memory, span)
        normed: Tensor = self.norm_f(branch, residual)
        return normed

    def embed(self, ids: Shaped[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Looks up token ids."""
        assert self.embedding is not None, "only a model that reads tokens embeds them"
        rows: Tensor = self.embedding(ids)
        return rows if self.embed_scale == 1.0 else rows * self.embed_scale
