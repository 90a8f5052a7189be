"""Classifiers of token sequences and of images."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput, SequenceClassifierOutputWithPast
from transformers.utils.generic import can_return_tuple

from hybridgen.errors import ShapeError, UnsupportedError
from hybridgen.hf.attention import attend_by_interface
from hybridgen.hf.config import HybridgenConfig
from hybridgen.hf.inputs import check_tensor
from hybridgen.hf.modeling import (
    HybridgenModel,
    HybridgenPreTrainedModel,
    checked,
    keep_islands,
    layers_with_streams,
)
from hybridgen.model.classifier import Classifier, classify
from hybridgen.model.vision import VisionModel
from hybridgen.spec.ends import ClassifierHeadSpec, PatchesInputSpec


def _with_classifier(config: HybridgenConfig) -> HybridgenConfig:
    """Returns a configuration whose spec has a classifier of `num_labels` classes; with 0 it says the pooled states."""
    head = checked(config).resolved().head
    if isinstance(head, ClassifierHeadSpec) and head.num_classes == config.num_labels:
        return config
    document = config.resolved().document()
    kept = head.model_dump(mode="json") if isinstance(head, ClassifierHeadSpec) else {"type": "classifier"}
    return config.with_spec(document | {"head": kept | {"num_classes": config.num_labels}})


def _loss(model: HybridgenPreTrainedModel, labels: Tensor, logits: Tensor) -> Tensor:
    """Returns transformers' loss of (B, C) logits, after labels that it would take for others are refused."""
    if "_loss_function" not in model.__dict__:
        _check_labels(labels, logits, model.config)
    return cast(Tensor, model.loss_function(labels, logits, model.config))


def _check_labels(labels: object, logits: Tensor, config: HybridgenConfig) -> None:
    """Refuses labels that do not fit, before transformers notes a `problem_type` that it guesses from them.

    Raises:
        ShapeError: If shape, dtype or values are not those that the loss reads.
        UnsupportedError: If the model has no classes.
    """
    check_tensor(labels, "labels")
    assert isinstance(labels, Tensor)
    if not config.num_labels:
        raise UnsupportedError("a model without classes has no loss; load it with num_labels=..., or leave out labels")
    batch, classes = logits.shape
    integer = labels.dtype in (torch.int64, torch.int32)
    kind = config.problem_type
    if kind is None and classes > 1:
        kind = "single_label_classification" if integer else "multi_label_classification"
    if kind != "single_label_classification":
        # One target per row may come without a column for it.
        shapes = (
            [(batch, classes), (batch,)]
            if classes == 1 and kind != "multi_label_classification"
            else [(batch, classes)]
        )
        if tuple(labels.shape) not in shapes:
            raise ShapeError(
                f"labels must be of shape {shapes[0]} for {kind or 'regression'}; given {tuple(labels.shape)} of "
                f"{labels.dtype}"
            )
        return
    if tuple(labels.shape) not in ((batch,), (batch, 1)) or not integer:
        raise ShapeError(
            f"labels must be integers of shape ({batch},) for {kind}, or set config.problem_type; given "
            f"{tuple(labels.shape)} of {labels.dtype}"
        )
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        odd = labels[((labels < 0) | (labels >= classes)) & (labels != -100)]
        if odd.numel():
            raise ShapeError(f"labels must be in 0 ... {classes - 1}, or -100 for none; given {int(odd[0])}")


class HybridgenForSequenceClassification(HybridgenPreTrainedModel):
    """Says one thing of each row of tokens.

    A configuration whose spec has no classifier gets one of `num_labels` classes, which reads the last real token.
    """

    # The loss is a mean over rows whatever `num_items_in_batch` says, so Trainer divides it by the steps it adds up.
    accepts_loss_kwargs = False

    def __init__(self, config: HybridgenConfig) -> None:
        config = _with_classifier(config)
        super().__init__(config)
        spec = config.resolved()
        if isinstance(spec.input, PatchesInputSpec):
            raise UnsupportedError("this spec reads images; use HybridgenForImageClassification")
        self.head_spec = cast(ClassifierHeadSpec, spec.head)
        self.backbone = HybridgenModel(config)
        classes = self.head_spec.num_classes
        self.head = Classifier(config.hidden_size, classes, bias=self.head_spec.bias) if classes else None
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
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Runs the model on whole rows.

        Args:
            input_ids: (B, T) token ids.
            attention_mask: (B, T), zero for padding, which takes no part.
            position_ids: See `HybridgenModel.forward`, as for what is not named here.
            past_key_values: Refused: a classifier reads whole rows.
            inputs_embeds: (B, T, D) instead of ids.
            labels: (B,) classes, (B, C) shares or targets; the configuration's `problem_type` says which loss.
            use_cache: Of no effect.
            **kwargs: Everything else that `HybridgenModel.forward` takes.

        Returns:
            loss, logits (B, C), and hidden states and attentions if wanted.
        """
        if past_key_values is not None:
            raise UnsupportedError("a classifier reads whole rows, so it takes no past_key_values")
        outputs = self.backbone(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=False,
            **(kwargs | {"return_dict": True}),
        )
        mask = None if attention_mask is None else attention_mask.bool()
        how = self.head_spec.pool_for(self.spec.input)
        logits = classify(outputs.last_hidden_state, self.head, how, mask=mask)
        return SequenceClassifierOutputWithPast(
            loss=None if labels is None else _loss(self, labels, logits),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class HybridgenForImageClassification(HybridgenPreTrainedModel):
    """Says one thing of each image.

    `images` is the model from `hg.build` whose parts these are: the very same modules and parameters.
    """

    main_input_name = "pixel_values"
    accepts_loss_kwargs = False  # as above

    def __init__(self, config: HybridgenConfig) -> None:
        if not isinstance(checked(config).resolved().input, PatchesInputSpec):
            raise UnsupportedError("this spec reads no images; use another class of hybridgen.hf")
        config = _with_classifier(config)
        super().__init__(config)
        images = VisionModel(config.resolved())
        # Not a child, which would give every parameter a second name.
        self.__dict__["images"] = images
        self._modules, self._parameters = images._modules, images._parameters
        keep_islands(self)
        self.attending = attend_by_interface(images, config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Returns what makes tokens of patches."""
        return cast(nn.Module, self.patch_embed)

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value of class tokens and position embeddings."""
        images: VisionModel = self.__dict__["images"]
        return images.initial_value(name, generator)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Runs the model.

        Args:
            pixel_values: (B, channels, H, W), normalised as the spec's `mean` and `std` say.
            labels: (B,) classes; the configuration's `problem_type` says which loss.
            output_hidden_states: Whether to return the tokens in front of the layers, the streams behind them, and the
                hidden states at the end.
            output_attentions: Whether to return the weights (B, H, L, L) of each layer of plain softmax attention;
                needs `attn_implementation="eager"`. Layers that read backwards count queries and keys from the end.
            **kwargs: Left alone: what other libraries hand through.

        Returns:
            loss, logits (B, C), and hidden states and attentions if wanted.
        """
        images: VisionModel = self.__dict__["images"]
        images.training = self.training
        streams = None
        weights = self.attending.recorded(output_attentions)
        try:
            if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
                tokens, span = images._tokens(pixel_values)
                hidden, found = images.backbone.forward_layers(tokens, span, layers_with_streams(images.backbone))
                streams = (tokens, *found[:-1], hidden)
            else:
                hidden = images.forward_features(pixel_values)
        finally:
            self.attending.weights = None
        logits = images.forward_head(hidden)
        return ImageClassifierOutput(
            loss=None if labels is None else _loss(self, labels, logits),
            logits=logits,
            hidden_states=streams,
            attentions=None if weights is None else tuple(weights),
        )
