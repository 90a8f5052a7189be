"""The two ends of a model: what it reads (`input`) and what it says (`head`)."""

from typing import Annotated, Literal

from pydantic import Field

from hybridgen.spec.base import NonNegativeInt, PositiveFloat, PositiveInt, Share, Spec


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


InputSpec = Annotated[HiddenInputSpec | TokensInputSpec | CodebooksInputSpec, Field(discriminator="type")]
HeadSpec = Annotated[NoHeadSpec | LmHeadSpec | CodebooksHeadSpec, Field(discriminator="type")]
