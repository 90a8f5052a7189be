"""Models of images: patches in front of the stack, class tokens among them, and timm's way to use the whole."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from hybridgen.errors import HybridgenError, ShapeError, UnsupportedError
from hybridgen.layers.span import Grid, Span
from hybridgen.model.classifier import STD, Classifier, classify, truncated_normal
from hybridgen.model.init import parameter_generator
from hybridgen.model.model import HybridModel, check_is_hybrid
from hybridgen.model.state import DecodingState
from hybridgen.spec.ends import ClassifierHeadSpec, PatchesInputSpec
from hybridgen.spec.model import ModelSpec

CROP_RATIO = 0.875
"""Share of a picture's tighter side that evaluation shows the model, as in the recipes of DeiT and Vim."""


_POOLS = {"avg": "mean", "token": "cls", "": "all"}
"""timm's names."""


class PatchProjection(nn.Conv2d):
    """The convolution that makes a token of each patch."""

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value: LeCun's truncated normal for `weight`, zeros for `bias`."""
        if name == "bias":
            return torch.zeros(self.out_channels, device="cpu")
        # A normal distribution that is cut off at two deviations has 0.8796 of its deviation left.
        std = math.sqrt(1 / self.weight[0].numel()) / 0.87962566103423978
        unit = nn.init.trunc_normal_(torch.empty(self.weight.shape, device="cpu"), generator=generator)
        return unit * std


class PatchEmbed(nn.Module):
    """Images (B, channels, H, W) to patches (B, D, rows, columns)."""

    def __init__(self, spec: PatchesInputSpec, d_model: int) -> None:
        super().__init__()
        self.proj = PatchProjection(spec.channels, d_model, spec.patch_size, stride=spec.step())

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D rows columns"]:
        """Maps each patch."""
        patches: Tensor = self.proj(images)
        return patches


class VisionModel(HybridModel):
    """A model built from a spec with `input: {type: patches}`: images (B, channels, H, W) in, logits (B, C) out.

    Its parameters in front of the stack have Vim's and timm's names. Beside `forward` it has what timm's image models
    have, so that code written for those can use it.

    Attributes:
        patch_embed: Images to patches.
        cls_token: (1, 1, D) if there is one class token; `cls_token_head` and `cls_token_tail` for a double one.
        pos_embed: (1, L, D) one row per token of the sequence, class tokens at their places; None without.
        head: The classifier; None without one.
        num_features: Width D of the features.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.source = source = cast(PatchesInputSpec, spec.input)
        self.num_features = d_model = spec.backbone.d_model
        self.patch_embed = PatchEmbed(source, d_model)
        for name in self._class_tokens():
            setattr(self, name, nn.Parameter(torch.empty(1, 1, d_model)))
        self.pos_embed = nn.Parameter(torch.empty(1, source.length(), d_model)) if source.pos_embed else None

    def _class_tokens(self) -> tuple[str, ...]:
        names = {"none": (), "double": ("cls_token_head", "cls_token_tail")}
        return names.get(self.source.cls_token, ("cls_token",))

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value of class tokens and position embeddings."""
        return truncated_normal(self.get_parameter(name).shape, STD, generator)

    def forward(  # type: ignore[override]  # no state, mask or packing: images are whole
        self, images: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "B ..."]:
        """Runs the model.

        Args:
            images: (B, channels, H, W) in the model's dtype, of the spec's image_size; of any size that the patches fit
                if there is no pos_embed.

        Returns:
            Logits (B, num_classes), (B, L, num_classes) with pool: all, pooled features (B, D) with num_classes: 0, or
            hidden states (B, L, D) with head: none.

        Raises:
            ShapeError: If the images do not fit the model.
        """
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Shaped[Tensor, "..."]) -> Float[Tensor, "B L D"]:
        """Returns the hidden states of all tokens, class tokens included, after the last norm."""
        tokens, span = self._tokens(images)
        hidden: Tensor = self.backbone(tokens, None, span)
        return hidden

    def forward_head(self, hidden: Float[Tensor, "B L D"], pre_logits: bool = False) -> Float[Tensor, "B ..."]:
        """Returns the logits of hidden states, or with `pre_logits` what is pooled of them before the classifier.

        Raises:
            ShapeError: If the hidden states are not those of such a model.
        """
        self._check_hidden(hidden)
        spec = self.spec.head
        if not isinstance(spec, ClassifierHeadSpec):
            return hidden
        how = spec.pool_for(self.source)
        places = self.source.class_places(hidden.shape[1] - len(self._class_tokens()))
        return classify(hidden, None if pre_logits else self.head, how, places)

    def forward_intermediates(
        self, images: Shaped[Tensor, "..."], return_layers: Sequence[int], norm: bool = False
    ) -> tuple[Float[Tensor, "B L D"], list[Float[Tensor, "B D rows columns"]]]:
        """Returns hidden states and maps of features, for detection and segmentation.

        Args:
            images: As in `forward`.
            return_layers: Layers behind which the residual stream is wanted; negative counts from the end. With layers
                in pairs, the second of a pair.
            norm: Whether the stream goes through the last norm first.

        Returns:
            What `forward_features` returns, and for each layer the stream at the patches as a map, before drop_path
            takes anything from the layer's own branch.

        Raises:
            UnsupportedError: If there is no such layer.
        """
        layers = self._layer_numbers(return_layers)
        tokens, span = self._tokens(images)
        hidden, streams = self.backbone.forward_layers(tokens, span, layers)
        if norm:
            streams = [self.backbone.norm_f(stream) for stream in streams]
        return hidden, [self._map(stream, cast(Grid, span.grid)) for stream in streams]

    def _layer_numbers(self, return_layers: Sequence[int]) -> list[int]:
        if isinstance(return_layers, str) or not isinstance(return_layers, Iterable):
            raise UnsupportedError(f"return_layers: must be a list of layers, such as [-1]; given {return_layers!r}")
        count, layers = len(self.backbone.layers), []
        for given in return_layers:
            if isinstance(given, bool) or not hasattr(given, "__index__"):
                raise UnsupportedError(f"return_layers: layers are whole numbers; given {given!r}")
            index = int(given) + count if given < 0 else int(given)
            if not 0 <= index < count:
                raise UnsupportedError(f"return_layers: the layers are 0 ... {count - 1}; given {given}")
            if self.backbone.in_pairs and index % 2 == 0:
                raise UnsupportedError(f"return_layers: layers work in pairs here, write {index + 1}; given {given}")
            layers.append(index)
        return layers

    def get_classifier(self) -> nn.Module:
        """Returns the classifier; an identity if there is none."""
        return nn.Identity() if self.head is None else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a new one, and the spec by one that says so.

        Args:
            num_classes: Classes of the new one; 0 is no classifier.
            global_pool: As `head.pool` of a spec, or timm's word for it: avg (mean), token (cls), an empty text (all);
                None keeps it.

        Raises:
            SpecError: If the pool does not fit the model.
        """
        document = self.spec.document()
        pool = getattr(self.spec.head, "pool", None) if global_pool is None else _POOLS.get(global_pool, global_pool)
        has_bias = getattr(self.spec.head, "bias", True)
        document["head"] = {"type": "classifier", "num_classes": num_classes, "pool": pool, "bias": has_bias}
        spec = ModelSpec.model_validate(document)
        head = None
        if num_classes:
            head = Classifier(self.num_features, num_classes, bias=has_bias, device=self.device, dtype=self.dtype)
            for name, parameter in head.named_parameters():
                value = head.initial_value(name, parameter_generator(0, f"head.{name}"))
                parameter.data.copy_(value)
        # Only now: when the memory is too small for the new one, the model stays what it was.
        self.spec, self.head = spec, head

    @property
    def num_classes(self) -> int:
        """Classes of the classifier; 0 without one."""
        return self.spec.head.num_classes if isinstance(self.spec.head, ClassifierHeadSpec) else 0

    @property
    def default_cfg(self) -> dict[str, Any]:
        """What timm says of a model: how to prepare its pictures, and where its ends are."""
        mean, std = self.source.pixel_statistics()
        return {
            "architecture": self.spec.name,
            "num_classes": self.num_classes,
            "input_size": (self.source.channels, *self.source.size()),
            "fixed_input_size": self.pos_embed is not None,
            "pool_size": None,
            "crop_pct": CROP_RATIO,
            "interpolation": "bicubic",
            "mean": mean,
            "std": std,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }

    def init_state(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, rollback: int = 0
    ) -> DecodingState:
        """Refuses: a model of images reads whole images.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError("a model of images has no decoding state: it reads whole images; call model(images)")

    def _tokens(self, images: Shaped[Tensor, "..."]) -> tuple[Float[Tensor, "B L D"], Span]:
        """Returns the tokens in front of the first layer, and how they lie."""
        self._check_input(images)
        patches = self.patch_embed(images)
        rows, columns = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2)
        places = self.source.class_places(rows * columns)
        for name, place in zip(self._class_tokens(), places, strict=True):
            token = self.get_parameter(name).to(tokens.dtype).expand(tokens.shape[0], -1, -1)
            tokens = torch.cat((tokens[:, :place], token, tokens[:, place:]), dim=1)
        if self.pos_embed is not None:
            tokens = tokens + self.pos_embed
        if self.source.dropout:
            tokens = functional.dropout(tokens, self.source.dropout, self.training)
        return tokens, Span(0, tokens.shape[1], tokens.device, grid=Grid(rows, columns, places))

    def _map(self, stream: Float[Tensor, "B L D"], grid: Grid) -> Float[Tensor, "B D rows columns"]:
        for place in reversed(grid.class_places):
            stream = torch.cat((stream[:, :place], stream[:, place + 1 :]), dim=1)
        return stream.transpose(1, 2).unflatten(2, (grid.rows, grid.columns))

    def _check_hidden(self, hidden: Tensor) -> None:
        self._check_place(hidden)
        least = max(1, len(self._class_tokens()))
        fits = hidden.ndim == 3 and hidden.shape[1] >= least and hidden.shape[2] == self.num_features
        if not fits or not hidden.is_floating_point():
            raise ShapeError(
                f"the input must be hidden states of shape (B, L, {self.num_features}), as forward_features returns; "
                f"given {tuple(hidden.shape)} of {hidden.dtype}"
            )

    def _check_input(self, images: Shaped[Tensor, "..."]) -> None:
        spec = self.source
        self._check_place(images)
        height, width = spec.size()
        wanted = f"(B, {spec.channels}, {height}, {width})" if spec.pos_embed else f"(B, {spec.channels}, H, W)"
        if images.ndim != 4 or images.shape[1] != spec.channels or images.dtype != self.dtype:
            raise ShapeError(
                f"the input must be images of shape {wanted} in {self.dtype}; given "
                f"{tuple(images.shape)} of {images.dtype}"
            )
        if spec.pos_embed and tuple(images.shape[2:]) != (height, width):
            raise ShapeError(
                f"the input must be images of {height} x {width} pixels, for which the model has position embeddings; "
                f"given {images.shape[2]} x {images.shape[3]}: resize them, or the model with "
                f"hybridgen.vision.resize_model"
            )
        for pixels in images.shape[2:]:
            if pixels < spec.patch_size or (pixels - spec.patch_size) % spec.step():
                raise ShapeError(
                    f"the sides of an image must be {spec.patch_size} + n * {spec.step()} pixels; given "
                    f"{images.shape[2]} x {images.shape[3]}"
                )


def check_is_vision(model: nn.Module) -> VisionModel:
    """Returns the model if it reads images, without what torch.compile wrapped around it.

    Raises:
        HybridgenError: If it does not.
    """
    inner = check_is_hybrid(model)
    if not isinstance(inner, VisionModel):
        raise HybridgenError(
            f"this needs a model of images, with input: {{type: patches}}; this one has input: "
            f"{{type: {inner.spec.input.type}}}"
        )
    return inner
