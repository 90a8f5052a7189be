"""The language model: next-token logits, and their loss without a table of all logits."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from hybridgen.errors import ShapeError
from hybridgen.hf.config import HybridgenConfig
from hybridgen.hf.generation import HybridgenGenerationMixin
from hybridgen.hf.inputs import check_tensor
from hybridgen.hf.modeling import HybridgenModel, HybridgenPreTrainedModel
from hybridgen.hub.configuration import generation_document
from hybridgen.layers.linear import Linear
from hybridgen.layers.mixers.base import runs_as_written
from hybridgen.model.model import finished_logits
from hybridgen.ops.linear_cross_entropy import linear_cross_entropy
from hybridgen.spec.ends import LmHeadSpec, TokensInputSpec


class HybridgenForCausalLM(HybridgenPreTrainedModel, HybridgenGenerationMixin):
    """A language model with the methods of transformers, `generate` among them.

    A configuration whose spec has another head gets a new `lm_head` of its own.

    Attributes:
        linear_cross_entropy: Computes the loss from hidden states and the head's weights; `hybridgen.ops`' own, which
            integrations replace.
    """

    _tied_weights_keys: dict[str, str] = {"lm_head.weight": "backbone.embedding.weight"}

    def __init__(self, config: HybridgenConfig) -> None:
        if not isinstance(config.resolved().head, LmHeadSpec):
            config = config.with_spec(config.resolved().document() | {"head": {"type": "lm", "tie_embeddings": False}})
        super().__init__(config)
        self.head_spec = cast(LmHeadSpec, config.resolved().head)
        self.backbone = HybridgenModel(config)
        self._is_stateful = self.backbone._is_stateful
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=self.head_spec.bias)
        self.linear_cross_entropy: Callable[..., Tensor] = linear_cross_entropy
        generation = generation_document(config.resolved()) or {}
        self.generation_config.suppress_tokens = generation.get("suppress_tokens")
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        skip_logits: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Runs the model.

        Args:
            input_ids: (B, T) token ids.
            attention_mask: (B, tokens in the cache + T), zero for padding.
            position_ids: See `HybridgenModel.forward`, as for what is not named here.
            past_key_values: A cache, advanced in place.
            inputs_embeds: (B, T, D) instead of ids.
            labels: (B, T) ids, those of `input_ids` themselves: each position predicts the next one's; -100 for none.
            use_cache: Whether to return a cache.
            logits_to_keep: Number of last positions that get logits (0 is all), or the positions (n,).
            skip_logits: Whether to return none where `labels` are given; None is so in training. The loss never needs
                the table of all logits, and the logits of a training step are seldom looked at.
            **kwargs: `shift_labels` (B, T) instead of `labels`, already shifted; `num_items_in_batch`, by which the sum
                of the losses is divided instead of the number of labels; and all of `HybridgenModel.forward`.

        Returns:
            loss, logits (B, L, V), cache, and hidden states and attentions if wanted.
        """
        shift_labels, items = kwargs.pop("shift_labels", None), kwargs.pop("num_items_in_batch", None)
        ignore_index = kwargs.pop("ignore_index", -100)
        outputs = self.backbone(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **(kwargs | {"return_dict": True}),
        )
        hidden = outputs.last_hidden_state
        has_labels = labels is not None or shift_labels is not None
        logits = loss = None
        if not (has_labels and (self.training if skip_logits is None else skip_logits)):
            logits = self._logits(_kept(hidden, logits_to_keep))
        if has_labels:
            _check_labels(labels if shift_labels is None else shift_labels, hidden)
            if labels is not None and shift_labels is None:
                shift_labels = torch.nn.functional.pad(labels, (0, 1), value=ignore_index)[:, 1:]
            loss = self._loss(hidden, shift_labels, items, ignore_index)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Changes the number of rows of the embedding table and of the head; see `PreTrainedModel`."""
        before = self.spec
        table: nn.Embedding = super().resize_token_embeddings(*args, **kwargs)
        if self.spec is not before and self.generation_config.suppress_tokens:
            # Rows that only padded the table were not to be picked; they are tokens now.
            source = cast(TokensInputSpec, before.input)
            padding = range(source.vocab_size, source.padded_vocab_size())
            kept = [token for token in self.generation_config.suppress_tokens if token not in padding]
            self.generation_config.suppress_tokens = kept or None
        return table

    def _logits(self, hidden: Tensor) -> Tensor:
        return finished_logits(self.lm_head(hidden), self.head_spec)

    def _loss(self, hidden: Tensor, labels: Tensor, items: Any, ignore_index: int) -> Tensor:
        hidden, labels = hidden.flatten(0, 1), labels.flatten().to(hidden.device)
        reduction = "mean" if items is None else "sum"
        head = self.lm_head
        if "_loss_function" in self.__dict__:
            logits = self._logits(hidden)
            return self.loss_function(logits, None, head.weight.shape[0], items, ignore_index, shift_labels=labels)
        if runs_as_written(head, Linear) or runs_as_written(head, nn.Linear):
            loss = self.linear_cross_entropy(
                hidden,
                head.weight,
                labels,
                head.bias,
                logit_scale=self.head_spec.logit_scale,
                logit_softcap=self.head_spec.logit_softcap,
                ignore_index=ignore_index,
                reduction=reduction,
            )
        else:
            # An adapted, quantised or offloaded head computes its logits itself.
            logits = self._logits(hidden).float()
            loss = nn.functional.cross_entropy(logits, labels, ignore_index=ignore_index, reduction=reduction)
        return loss if items is None else loss / (items.to(loss.device) if isinstance(items, Tensor) else items)


def _check_labels(labels: object, hidden: Tensor) -> None:
    """Refuses labels of other rows: flattened, those of as many tokens would be taken without a word."""
    check_tensor(labels, "labels")
    assert isinstance(labels, Tensor)
    if labels.shape != hidden.shape[:2]:
        raise ShapeError(f"labels must be of shape {tuple(hidden.shape[:2])}; given {tuple(labels.shape)}")


def _kept(hidden: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    if isinstance(logits_to_keep, int):
        return hidden[:, -logits_to_keep:] if logits_to_keep else hidden
    check_tensor(logits_to_keep, "logits_to_keep")
    if hidden.device.type == "cpu" and logits_to_keep.numel() and not torch.compiler.is_compiling():
        low, high = (int(bound) for bound in torch.aminmax(logits_to_keep))
        length = hidden.shape[1]
        if low < -length or high >= length:
            raise ShapeError(
                f"logits_to_keep must be positions in {-length} ... {length - 1}; given "
                f"{low if low < -length else high}"
            )
    return hidden[:, logits_to_keep]
