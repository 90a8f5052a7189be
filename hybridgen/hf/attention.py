"""Attention by transformers' interface: `attn_implementation` "eager", "flex_attention", or a registered function.

"sdpa", the default, is our own attention, which uses PyTorch's fused kernels where they fit. Layers whose scores are
more than products (selective, soft caps, sinks, ALiBi) keep their own operator whatever is asked for.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hybridgen.errors import UnsupportedError
from hybridgen.layers.attention_core import Keys, Scoring, attend_causal, attend_everywhere, visibility
from hybridgen.layers.mixers.attention import Attention
from hybridgen.layers.span import Span
from hybridgen.ops.add_norm.plain import upcast


class Attending:
    """What `Attention.attend` is in a model of transformers.

    Attributes:
        weights: Where the weights of each layer go while they are recorded; None otherwise.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config
        self.weights: list[Tensor] | None = None

    def recorded(self, wanted: bool | None) -> list[Tensor] | None:
        """Begins to record weights, if a call or else the configuration wants them; returns where they will be.

        Raises:
            UnsupportedError: If the attention that is set makes none.
        """
        if not (self.config.output_attentions if wanted is None else wanted):
            return None
        if self.config._attn_implementation != "eager":
            raise UnsupportedError(
                f"output_attentions needs attn_implementation='eager', which makes the weights; it is "
                f"{self.config._attn_implementation!r}: call model.set_attn_implementation('eager')"
            )
        self.weights = []
        return self.weights

    def __call__(self, mixer: Attention, q: Tensor, keys: Keys, span: Span, scoring: Scoring) -> Tensor:
        """Attends; see `Attention.attend`. q is (B, H, T, P), and so is the result."""
        name = self.config._attn_implementation or "sdpa"
        spec = mixer.spec
        if name == "sdpa" or q.shape[2] == 0:
            if spec.causal:
                return attend_causal(q, keys, span.offset, span.starts, spec.window, scoring)
            return attend_everywhere(q, keys, span.starts, scoring)
        k, v = keys.in_order()
        interface = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)
        # Read by the functions of transformers.
        mixer.num_key_value_groups = q.shape[1] // k.shape[1]  # type: ignore[assignment]
        mask = _block_mask(q, keys, span, mixer) if name == "flex_attention" else _mask(q, keys, span, mixer)
        y, weights = interface(
            mixer, q, k, v, mask, dropout=scoring.dropout, scaling=scoring.scale, sliding_window=spec.window
        )
        if self.weights is not None and weights is not None:
            self.weights.append(weights)
        return y.transpose(1, 2)


def attend_by_interface(model: nn.Module, config: PreTrainedConfig) -> Attending:
    """Makes all attention layers of a model attend as its configuration says."""
    attending = Attending(config)
    for mixer in model.modules():
        if isinstance(mixer, Attention):
            mixer.attend = attending
    return attending


def eager_attention(
    module: Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attends by whole tables of scores, softmax in float32, and returns the weights (B, H, T, S) too."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = upcast(query @ key.mT) * scaling
    if attention_mask is not None:
        # Not minus infinity: a row of padding sees itself alone, and nothing else needs a guard.
        scores = scores.masked_fill(~attention_mask, -torch.inf)
    weights = torch.softmax(scores, dim=-1).to(query.dtype)
    weights = torch.nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def _mask(q: Tensor, keys: Keys, span: Span, mixer: Attention) -> Tensor:
    """Returns (B, 1, T, S) booleans, true where a key is seen."""
    slots = keys.first + torch.arange(keys.k.shape[2], device=q.device)
    if not mixer.spec.causal:
        seen = torch.ones(1, 1, q.shape[2], len(slots), dtype=torch.bool, device=q.device)
        return seen if span.starts is None else (span.starts[:, :, None] == span.starts[:, None, :])[:, None]
    return visibility(span.slots(), slots, span.starts, mixer.spec.window)


def _block_mask(q: Tensor, keys: Keys, span: Span, mixer: Attention) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    table = _mask(q, keys, span, mixer)

    def seen(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return table[row if table.shape[0] > 1 else 0, 0, query, key]

    return create_block_mask(seen, q.shape[0], None, q.shape[2], keys.k.shape[2], device=str(q.device))
