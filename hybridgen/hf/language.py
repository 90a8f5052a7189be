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
from hybridgen.hf.inputs import check_tensor, sequence_begins
from hybridgen.hf.modeling import HybridgenModel, HybridgenPreTrainedModel, checked
from hybridgen.hub.configuration import generation_document
from hybridgen.layers.linear import Linear
from hybridgen.layers.mixers.base import runs_as_written
from hybridgen.model.model import finished_logits
from hybridgen.ops.linear_cross_entropy import linear_cross_entropy
from hybridgen.spec.ends import LmHeadSpec, TokensInputSpec

_IGNORED = -100


class HybridgenForCausalLM(HybridgenPreTrainedModel, HybridgenGenerationMixin):
    """A language model with the methods of transformers, `generate` among them.

    A configuration whose spec has another head gets a new `lm_head` of its own.

    Attributes:
        linear_cross_entropy: Computes the loss from hidden states and the head's weights; `hybridgen.ops`' own, which
            integrations replace.
        skip_logits: What a call means that does not say it; see `forward`. Set it to False for code that looks at the
            logits of training steps.
    """

    skip_logits: bool | None = None

    _tied_weights_keys: dict[str, str] = {"lm_head.weight": "backbone.embedding.weight"}

    def __init__(self, config: HybridgenConfig) -> None:
        if not isinstance(checked(config).resolved().head, LmHeadSpec):
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
            skip_logits: Whether to return none where `labels` are given; None is what the attribute says, and if that
                is None too, so in training. The loss never needs the table of all logits, and the logits of a training
                step are seldom looked at.
            **kwargs: `shift_labels` (B, T) instead of `labels`, already shifted; `num_items_in_batch`, by which the sum
                of the losses is divided instead of the number of labels; and all of `HybridgenModel.forward`.

        Returns:
            loss, logits (B, L, V), cache, and hidden states and attentions if wanted.
        """
        shift_labels, items = kwargs.pop("shift_labels", None), kwargs.pop("num_items_in_batch", None)
        ignore_index = kwargs.pop("ignore_index", _IGNORED)
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
        skips = self.skip_logits if skip_logits is None else skip_logits
        if not (has_labels and (self.training if skips is None else skips)):
            logits = self._logits(_kept(hidden, logits_to_keep))
        if has_labels and "_loss_function" in self.__dict__:
            loss = self._loss_of_the_callers(hidden, labels, shift_labels, items, ignore_index)
        elif has_labels:
            _check_labels(labels if shift_labels is None else shift_labels, hidden, ignore_index)
            if shift_labels is None:
                assert labels is not None
                begins = sequence_begins(kwargs.get("seq_idx"), position_ids, attention_mask)
                # No sequence of a packed row says how the next one begins.
                labels = labels if begins is None else labels.masked_fill(begins.to(labels.device), ignore_index)
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

    def _loss_of_the_callers(
        self, hidden: Tensor, labels: Tensor | None, shift_labels: Tensor | None, items: Any, ignore_index: int
    ) -> Tensor:
        """Calls a function that somebody set as `loss_function`, as transformers' own models do."""
        given = {"num_items_in_batch": items, "shift_labels": shift_labels}
        options = {name: value for name, value in given.items() if value is not None}
        if ignore_index != _IGNORED:
            options["ignore_index"] = ignore_index
        logits = self._logits(hidden)
        loss: Tensor = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **options)
        return loss

    def _loss(self, hidden: Tensor, labels: Tensor, items: Any, ignore_index: int) -> Tensor:
        hidden, labels = hidden.flatten(0, 1), labels.flatten().to(hidden.device)
        reduction = "mean" if items is None else "sum"
        head = self.lm_head
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
            labels = labels.to(logits.device)
            loss = nn.functional.cross_entropy(logits, labels, ignore_index=ignore_index, reduction=reduction)
        return loss if items is None else loss / (items.to(loss.device) if isinstance(items, Tensor) else items)


def _check_labels(labels: object, hidden: Tensor, ignore_index: object) -> None:
    """Refuses labels of other rows: flattened, those of as many tokens would be taken without a word."""
    check_tensor(labels, "labels")
    assert isinstance(labels, Tensor)
    if labels.dtype not in (torch.int64, torch.int32):
        raise ShapeError(f"labels must be integers, torch.int64 or torch.int32; given {labels.dtype}")
    if type(ignore_index) is not int:
        raise ShapeError(f"ignore_index must be an integer; given {ignore_index!r}")
    if labels.shape != hidden.shape[:2]:
        raise ShapeError(f"labels must be of shape {tuple(hidden.shape[:2])}; given {tuple(labels.shape)}")


def _kept(hidden: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    if isinstance(logits_to_keep, int):
        if logits_to_keep < 0 or isinstance(logits_to_keep, bool):
            raise ShapeError(f"logits_to_keep must be a number of last positions, 0 for all; given {logits_to_keep!r}")
        return hidden[:, -logits_to_keep:] if logits_to_keep else hidden
    check_tensor(logits_to_keep, "logits_to_keep")
    if logits_to_keep.ndim != 1 or logits_to_keep.dtype not in (torch.int64, torch.int32):
        raise ShapeError(
            f"logits_to_keep must be positions (n,), integers; given {tuple(logits_to_keep.shape)} of "
            f"{logits_to_keep.dtype}"
        )
    if hidden.device.type == "cpu" and logits_to_keep.numel() and not torch.compiler.is_compiling():
        low, high = (int(bound) for bound in torch.aminmax(logits_to_keep))
        length = hidden.shape[1]
        if low < -length or high >= length:
            raise ShapeError(
                f"logits_to_keep must be positions in {-length} ... {length - 1}; given "
                f"{low if low < -length else high}"
            )
    return hidden[:, logits_to_keep]
