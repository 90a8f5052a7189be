"""Classifiers of token sequences and of images."""

from typing import Any, cast

import torch
from torch import Tensor
from transformers.modeling_outputs import ImageClassifierOutput, SequenceClassifierOutputWithPast
from transformers.utils.generic import can_return_tuple

from hybridgen.errors import UnsupportedError
from hybridgen.hf.config import HybridgenConfig
from hybridgen.hf.modeling import HybridgenModel, HybridgenPreTrainedModel, keep_islands
from hybridgen.model.classifier import Classifier, classify
from hybridgen.model.vision import VisionModel
from hybridgen.spec.ends import ClassifierHeadSpec, PatchesInputSpec


def _with_classifier(config: HybridgenConfig) -> HybridgenConfig:
    """Returns a configuration whose spec has a classifier of `num_labels` classes; with 0 it says the pooled states."""
    head = config.resolved().head
    if isinstance(head, ClassifierHeadSpec) and head.num_classes == config.num_labels:
        return config
    document = config.resolved().document()
    kept = head.model_dump(mode="json") if isinstance(head, ClassifierHeadSpec) else {"type": "classifier"}
    return config.with_spec(document | {"head": kept | {"num_classes": config.num_labels}})


class HybridgenForSequenceClassification(HybridgenPreTrainedModel):
    """Says one thing of each row of tokens.

    A configuration whose spec has no classifier gets one of `num_labels` classes, which reads the last real token.
    """

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
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class HybridgenForImageClassification(HybridgenPreTrainedModel):
    """Says one thing of each image.

    `images` is the model from `hg.build` whose parts these are: the very same modules and parameters.
    """

    main_input_name = "pixel_values"

    def __init__(self, config: HybridgenConfig) -> None:
        if not isinstance(config.resolved().input, PatchesInputSpec):
            raise UnsupportedError("this spec reads no images; use another class of hybridgen.hf")
        config = _with_classifier(config)
        super().__init__(config)
        images = VisionModel(config.resolved())
        # Not a child, which would give every parameter a second name.
        self.__dict__["images"] = images
        self._modules, self._parameters = images._modules, images._parameters
        keep_islands(self)
        self.post_init()

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
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Runs the model.

        Args:
            pixel_values: (B, channels, H, W), normalised as the spec's `mean` and `std` say.
            labels: (B,) classes; the configuration's `problem_type` says which loss.
            output_hidden_states: Whether to return the tokens in front of the layers, the streams behind them, and the
                hidden states at the end.
            **kwargs: Left alone: what other libraries hand through.

        Returns:
            loss, logits (B, C), and hidden states if wanted.
        """
        images: VisionModel = self.__dict__["images"]
        images.training = self.training
        streams = None
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            tokens, span = images._tokens(pixel_values)
            every = 2 if images.backbone.in_pairs else 1
            layers = range(every - 1, len(images.backbone.layers), every)
            hidden, found = images.backbone.forward_layers(tokens, span, layers)
            streams = (tokens, *found[:-1], hidden)
        else:
            hidden = images.forward_features(pixel_values)
        logits = images.forward_head(hidden)
        return ImageClassifierOutput(
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=streams,
        )
