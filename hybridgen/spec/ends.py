"""The two ends of a model: what it reads (`input`) and what it says (`head`)."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from hybridgen.spec.base import GREATEST, NonNegativeInt, PositiveFloat, PositiveInt, Problem, Share, Spec

Pixels = Annotated[int, Field(ge=1, le=65_536)]
Pair = Annotated[tuple[Pixels, Pixels], Field(strict=False)]
Channels = Annotated[tuple[Annotated[float, Field(ge=-GREATEST, le=GREATEST)], ...], Field(strict=False, min_length=1)]
Spread = Annotated[tuple[PositiveFloat, ...], Field(strict=False, min_length=1)]
ChannelCount = Annotated[int, Field(ge=1, le=65_536)]
MOST_PATCHES = 4096 * 4096
"""More are no picture that a model reads in one piece; the bound keeps slips from tables of positions without end."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class HiddenInputSpec(Spec):
    """The model is called with hidden states (B, T, D); nothing stands in front of the stack."""

    type: Literal["hidden"]
    """Kind of the input."""


class TokensInputSpec(Spec):
    """The model is called with token ids (B, T), which an embedding table turns into hidden states."""

    type: Literal["tokens"]
    """Kind of the input."""
    vocab_size: PositiveInt
    """Number of different tokens."""
    pad_vocab_size_multiple: PositiveInt = 8
    """Rows of embedding and head are rounded up to a multiple of this; generation never picks the extra ones."""
    embed_scale: PositiveFloat = 1.0
    """Factor on the embeddings."""
    dropout: Share = 0.0
    """Share of the embeddings that training drops."""
    memory_tokens: NonNegativeInt = 0
    """Learned tokens before the first token of each row, for the others to read; nothing is returned at them."""

    def padded_vocab_size(self) -> int:
        """Rows of the embedding table."""
        return -(-self.vocab_size // self.pad_vocab_size_multiple) * self.pad_vocab_size_multiple


class CodebooksInputSpec(Spec):
    """The model is called with codes (B, T, n_codebooks) of a neural audio codec; their embeddings are added up."""

    type: Literal["codebooks"]
    """Kind of the input."""
    n_codebooks: PositiveInt
    """Codes per token."""
    vocab_size: PositiveInt
    """Number of different codes in each codebook, special ones included."""
    dropout: Share = 0.0
    """Share of the sum of their embeddings that training drops."""


class PatchesInputSpec(Spec):
    """The model is called with images (B, channels, height, width), which a convolution cuts into patches.

    Patches stand in rows, from the top left. Parameters are Vim's and timm's: `patch_embed.proj`, `pos_embed`,
    `cls_token` (`cls_token_head` and `cls_token_tail` for a double one). Source: arXiv 2010.11929, 2401.09417.
    """

    type: Literal["patches"]
    """Kind of the input."""
    image_size: Pixels | Pair
    """Height and width of the images in pixels: one number for squares, or [height, width]."""
    patch_size: Pixels = 16
    """Side of a patch in pixels."""
    stride: Pixels | None = None
    """Pixels from one patch to the next; null is patch_size, less makes patches overlap."""
    channels: ChannelCount = 3
    """Channels of the images."""
    cls_token: Literal["none", "head", "middle", "double"] = "none"
    """Where a learned class token stands: in front of the patches (head), behind the first half of them (middle), or
    one at each end (double)."""
    pos_embed: bool = True
    """Whether each token, class tokens included, has a learned position embedding."""
    rotary: Literal["none", "hidden", "residual"] = "none"
    """Rotation of the tokens by row and column in front of every layer (Vim's rope): of the last branch alone (hidden),
    or of the residual stream too, where rotations add up over the layers (residual)."""
    rotary_grid: PositiveInt = 14
    """Rows and columns that the rotation counts; positions of other grids are scaled to them (Vim's pt_hw_seq_len)."""
    dropout: Share = 0.0
    """Share of the embeddings that training drops."""
    mean: Channels | None = None
    """What is subtracted from each channel of a picture with values from 0 to 1 before the model sees it; null is
    ImageNet's for 3 channels, else 0.5. A record for `hybridgen classify` and for timm: the model itself never does."""
    std: Spread | None = None
    """What each channel is then divided by; null is ImageNet's for 3 channels, else 0.5."""

    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    def step(self) -> int:
        """Pixels from one patch to the next, the default worked out."""
        return self.patch_size if self.stride is None else self.stride

    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.size()
        return (height - self.patch_size) // self.step() + 1, (width - self.patch_size) // self.step() + 1

    def class_places(self, patches: int | None = None) -> tuple[int, ...]:
        """Indices of the class tokens in the sequence of so many patches; of those of `image_size` if not given."""
        if patches is None:
            rows, columns = self.grid()
            patches = rows * columns
        places = {"none": (), "head": (0,), "middle": (patches // 2,), "double": (0, patches + 1)}
        return places[self.cls_token]

    def length(self) -> int:
        """Tokens in the sequence, class tokens included."""
        rows, columns = self.grid()
        return rows * columns + len(self.class_places())

    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, the defaults worked out."""
        is_rgb = self.channels == 3
        mean = self.mean or (IMAGENET_MEAN if is_rgb else (0.5,) * self.channels)
        std = self.std or (IMAGENET_STD if is_rgb else (0.5,) * self.channels)
        return mean, std

    def problems(self) -> Iterator[Problem]:
        """Yields the rules between fields that this input breaks."""
        step = self.step()
        if step > self.patch_size:
            message = f"stride must be at most patch_size = {self.patch_size}, or pixels are lost; given {step}"
            yield Problem(("stride",), message, depends=("patch_size",))
        for side, pixels in zip(("height", "width"), self.size(), strict=True):
            if pixels < self.patch_size:
                message = f"the {side} of an image must be at least patch_size = {self.patch_size}; given {pixels}"
                yield Problem(("image_size",), message, depends=("patch_size",))
            elif (pixels - self.patch_size) % step:
                below = pixels - (pixels - self.patch_size) % step
                message = (
                    f"the {side} of an image must be patch_size plus a multiple of the stride, "
                    f"{self.patch_size} + n * {step}; given {pixels}"
                )
                near = f"write {below} or {below + step}"
                yield Problem(("image_size",), message, near, depends=("patch_size", "stride"))
        rows, columns = self.grid()
        if rows * columns > MOST_PATCHES:
            message = f"an image can have at most {MOST_PATCHES} patches; given {rows} * {columns}"
            named = "patch_size" if self.stride is None else "stride"
            depends = ("patch_size", "stride")
            yield Problem(("image_size",), message, f"write a larger {named}, or a smaller image_size", depends)
        if self.rotary == "none" and self.rotary_grid != 14:
            message = f"rotary_grid needs rotary, nothing is rotated without it; given {self.rotary_grid}"
            yield Problem(("rotary_grid",), message, "remove it, or write rotary: hidden", depends=("rotary",))
        if self.rotary != "none" and self.cls_token in ("middle", "double"):
            message = (
                f"rotary is for patches without a class token, or with one at the head; given cls_token: "
                f"{self.cls_token}, which would take the place of a patch"
            )
            yield Problem(("rotary",), message, "write cls_token: head, or rotary: none", depends=("cls_token",))
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                message = f"{name} must have one number per channel, {self.channels}; given {len(values)}"
                yield Problem((name,), message, depends=("channels",))


class NoHeadSpec(Spec):
    """The model returns the hidden states (B, T, D) after the last norm."""

    type: Literal["none"]
    """Kind of the head."""


class LmHeadSpec(Spec):
    """The model returns next-token logits (B, T, V), V being the padded vocabulary."""

    type: Literal["lm"]
    """Kind of the head."""
    tie_embeddings: bool = True
    """Whether the head uses the embedding table as its weight."""
    bias: bool = False
    """Whether the head has a bias."""
    logit_softcap: PositiveFloat | None = None
    """Logits become cap * tanh(logit / cap), after logit_scale; null is no cap."""
    logit_scale: PositiveFloat = 1.0
    """Factor on the logits."""


class CodebooksHeadSpec(Spec):
    """The model returns one row of logits per codebook, (B, T, n_codebooks, V)."""

    type: Literal["codebooks"]
    """Kind of the head."""
    vocab_size: PositiveInt | None = None
    """Number of different codes to predict; null is that of the input. Zonos predicts one code less than it reads."""


class ClassifierHeadSpec(Spec):
    """The model returns one row of class logits per sequence or image, (B, num_classes)."""

    type: Literal["classifier"]
    """Kind of the head."""
    num_classes: NonNegativeInt
    """Number of classes; 0 returns the pooled hidden states (B, D) as they are."""
    pool: Literal["cls", "mean", "last", "max", "all"] | None = None
    """What is classified: the class token (cls; the mean of a double one), the mean of all tokens (mean), the last
    token (last), all tokens, of whose logits each class takes the largest (max), or each token by itself, which
    returns (B, T, num_classes) (all). Null is cls where there is a class token, else mean."""
    bias: bool = True
    """Whether the head has a bias."""

    def pool_for(self, source: object) -> str:
        """What is classified, the default worked out for a model with this input."""
        if self.pool is not None:
            return self.pool
        has_class_token = isinstance(source, PatchesInputSpec) and source.cls_token != "none"
        return "cls" if has_class_token else "mean"


InputSpec = Annotated[
    HiddenInputSpec | TokensInputSpec | CodebooksInputSpec | PatchesInputSpec, Field(discriminator="type")
]
HeadSpec = Annotated[NoHeadSpec | LmHeadSpec | ClassifierHeadSpec | CodebooksHeadSpec, Field(discriminator="type")]
