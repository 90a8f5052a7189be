"""The whole model: input, backbone and head."""

from typing import cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from hybridgen.errors import HybridgenError, ShapeError, UnsupportedError
from hybridgen.layers.linear import Embedding, Linear
from hybridgen.model.backbone import Backbone
from hybridgen.model.classifier import Classifier, classify
from hybridgen.model.decay import no_weight_decay
from hybridgen.model.reading import make_state, read
from hybridgen.model.state import DecodingState
from hybridgen.spec.ends import ClassifierHeadSpec, CodebooksHeadSpec, CodebooksInputSpec, LmHeadSpec, TokensInputSpec
from hybridgen.spec.model import ModelSpec


class HybridModel(nn.Module):
    """A model built from a spec: hidden states, token ids or codes in; hidden states or logits out.

    Attributes:
        spec: The resolved spec that it was built from.
        backbone: The stack; see `Backbone`.
        embeddings: One table per codebook, if the model reads codes.
        lm_head: The head of a language model.
        head: The classifier of a model that classifies.
        heads: One head per codebook, if the model predicts codes.
    """

    base_model_prefix = "backbone"

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        d_model = spec.backbone.d_model
        if isinstance(spec.input, CodebooksInputSpec):
            codes, std = spec.input, spec.backbone.init.initializer_range
            self.embeddings = nn.ModuleList(Embedding(codes.vocab_size, d_model, std) for _ in range(codes.n_codebooks))
        self.backbone = Backbone(spec)
        if isinstance(spec.head, LmHeadSpec):
            self.lm_head = Linear(d_model, cast(TokensInputSpec, spec.input).padded_vocab_size(), bias=spec.head.bias)
            self.tie_weights()
            # Loading with assign=True puts a parameter of its own under each name.
            self.register_load_state_dict_post_hook(_tie_after_loading)
        self.head: Classifier | None = None
        if isinstance(spec.head, ClassifierHeadSpec) and spec.head.num_classes:
            self.head = Classifier(d_model, spec.head.num_classes, bias=spec.head.bias)
        if isinstance(spec.head, CodebooksHeadSpec):
            codes = cast(CodebooksInputSpec, spec.input)
            vocab_size = spec.head.vocab_size or codes.vocab_size
            self.heads = nn.ModuleList(Linear(d_model, vocab_size, bias=False) for _ in range(codes.n_codebooks))

    def forward(
        self,
        x: Shaped[Tensor, "B T *rest"],
        state: DecodingState | None = None,
        *,
        mask: Shaped[Tensor, "B T"] | None = None,
        seq_idx: Shaped[Tensor, "B T"] | None = None,
        num_last_tokens: int = 0,
    ) -> Float[Tensor, "B L *out"]:
        """Runs the model on T tokens of each row.

        Args:
            x: Token ids (B, T), codes (B, T, n_codebooks), or hidden states (B, T, D), as the spec's input says.
            state: Made by `init_state`; the call continues it and advances it in place. Any T >= 0.
            mask: Bool (B, T), false for padding. The real tokens of a row stand together; with a state, padding stands
                on their left. What comes out at padding has no meaning.
            seq_idx: Integers (B, T), the number of the sequence that each token of a packed row belongs to; nothing
                crosses a boundary, and positions begin again at each.
            num_last_tokens: Only the last so many tokens get an output; 0 is all of them. At least 0.

        Returns:
            Logits (B, T, V), one row of logits per codebook (B, T, n_codebooks, V), or hidden states (B, T, D).

        Raises:
            ShapeError: If the tensors do not fit the model, each other, or the state.
        """
        self._check_input(x)
        if num_last_tokens < 0:
            raise ShapeError(f"num_last_tokens must be 0 (all) or more; given {num_last_tokens}")
        if isinstance(self.spec.head, ClassifierHeadSpec):
            self._check_whole(x.shape[1], state, seq_idx, num_last_tokens)
        hidden, mask, _ = read(self.backbone, self._embed(x), state, mask, seq_idx, self.backbone)
        if isinstance(self.spec.head, ClassifierHeadSpec):
            return classify(hidden, self.head, self.spec.head.pool_for(self.spec.input), mask=mask)
        return self._apply_head(hidden[:, -num_last_tokens:] if num_last_tokens else hidden)

    def init_state(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, rollback: int = 0
    ) -> DecodingState:
        """Makes an empty decoding state on the model's device.

        Args:
            batch_size: Rows.
            max_seqlen: Tokens per row that the key-value caches must hold, padding included.
            dtype: Dtype of keys, values and convolution states; None is the model's. SSM states are float32.
            rollback: How many of the last tokens `DecodingState.truncate` can take back in layers whose state every
                token changes as a whole (Mamba, convolutions, selection, windows). Each costs a copy of that state.

        Raises:
            UnsupportedError: If a layer is not causal.
            ShapeError: If a number is negative or no whole number.
        """
        return make_state(self.backbone, batch_size, max_seqlen, dtype or self.dtype, rollback)

    def no_weight_decay(self) -> set[str]:
        """Returns the names of weights that a recipe should not decay, besides biases and norms.

        They are the parameters of scans (`A_log`, `D`, `dt_bias`, as mamba-ssm marks them), memory and class tokens,
        and position embeddings.
        """
        return no_weight_decay(self)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.backbone.norm_f.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights, apart from the few that stay in float32."""
        return self.backbone.norm_f.weight.dtype

    def tied_weights(self) -> dict[str, str]:
        """Returns which names in the state dict are another parameter's: alias -> owner."""
        is_tied = isinstance(self.spec.head, LmHeadSpec) and self.spec.head.tie_embeddings
        return {"lm_head.weight": "backbone.embedding.weight"} if is_tied else {}

    def tie_weights(self) -> None:
        """Makes each alias of `tied_weights` the same parameter as its owner."""
        for alias, owner in self.tied_weights().items():
            module, _, name = alias.rpartition(".")
            setattr(self.get_submodule(module), name, self.get_parameter(owner))

    def parameter_dtypes(self, dtype: torch.dtype) -> dict[str, torch.dtype]:
        """Returns the dtype of each parameter in a model of `dtype`: A, D and the bias of dt are at least float32."""
        return parameter_dtypes(self, dtype)

    def _embed(self, x: Tensor) -> Tensor:
        if not isinstance(self.spec.input, CodebooksInputSpec):
            return x
        tables = list(self.embeddings)
        total: Tensor = tables[0](x[..., 0])
        for index, table in enumerate(tables[1:], start=1):
            total = total + table(x[..., index])
        dropout = self.spec.input.dropout
        return functional.dropout(total, dropout, self.training) if dropout else total

    def _apply_head(self, hidden: Float[Tensor, "B T D"]) -> Tensor:
        head = self.spec.head
        if isinstance(head, CodebooksHeadSpec):
            return torch.stack([each(hidden) for each in self.heads], dim=2)
        if not isinstance(head, LmHeadSpec):
            return hidden
        logits: Tensor = self.lm_head(hidden)
        return finished_logits(logits, head)

    def _check_whole(
        self, length: int, state: DecodingState | None, seq_idx: Tensor | None, num_last_tokens: int
    ) -> None:
        """Refuses a call of a classifier on anything but whole sequences, one per row."""
        if not length:
            raise ShapeError("a classifier needs at least one token in each row; given T = 0")
        if state is not None:
            raise UnsupportedError(
                "a classifier reads whole sequences, so it takes no state; for pieces call hg.base_model(model)"
            )
        if seq_idx is not None or num_last_tokens:
            name = "seq_idx" if seq_idx is not None else "num_last_tokens"
            raise ShapeError(f"a classifier says one thing of each row, so it takes no {name}; give sequences as rows")

    def _check_place(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise ShapeError(f"the input must be a tensor; given {type(x).__name__}")
        if x.layout != torch.strided:
            raise ShapeError(f"the input must be a dense tensor; given {x.layout}: make it one with .to_dense()")
        if x.device != self.device:
            raise ShapeError(f"the input is on {x.device} and the model on {self.device}; move one with .to(device)")

    def _check_input(self, x: Tensor) -> None:
        self._check_place(x)
        given = f"given {tuple(x.shape)} of {x.dtype}"
        match self.spec.input:
            case TokensInputSpec(vocab_size=_):
                if x.ndim != 2 or x.is_floating_point():
                    raise ShapeError(f"the input must be token ids of shape (B, T); {given}")
                self._check_ids(x, self.spec.input.padded_vocab_size())
            case CodebooksInputSpec(n_codebooks=count):
                if x.ndim != 3 or x.is_floating_point() or x.shape[2] != count:
                    raise ShapeError(
                        f"the input must be codes of shape (B, T, n_codebooks = {count}); {given} "
                        f"(codes of shape (B, n_codebooks, T) need `.transpose(1, 2)`)"
                    )
                self._check_ids(x, self.spec.input.vocab_size)
            case _:
                d_model = self.spec.backbone.d_model
                if x.ndim != 3 or x.shape[2] != d_model or x.dtype != self.dtype:
                    raise ShapeError(
                        f"the input must be hidden states of shape (B, T, d_model = {d_model}) in {self.dtype}; {given}"
                    )

    def _check_ids(self, x: Tensor, size: int) -> None:
        if x.dtype not in (torch.int64, torch.int32):
            raise ShapeError(f"ids must be of torch.int64 or torch.int32; given {x.dtype}")
        # On a GPU the embedding kernel itself asserts the range; reading it here would stall the device.
        if x.device.type != "cpu" or not x.numel() or torch.compiler.is_compiling():
            return
        low, high = (int(bound) for bound in torch.aminmax(x))
        if low < 0 or high >= size:
            raise ShapeError(f"ids must be in 0 ... {size - 1}; given {low if low < 0 else high}")


def parameter_dtypes(model: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Returns the dtype of each parameter in a model of `dtype`; see `HybridModel.parameter_dtypes`."""
    dtypes = {name: dtype for name, _ in model.named_parameters(remove_duplicate=False)}
    wide = torch.promote_types(dtype, torch.float32)
    for prefix, module in model.named_modules():
        names = getattr(module, "float32_parameters", ())
        dtypes |= {f"{prefix}.{name}" if prefix else name: wide for name in names}
    return dtypes


def finished_logits(logits: Float[Tensor, "*batch V"], head: LmHeadSpec) -> Float[Tensor, "*batch V"]:
    """Returns what a head makes of its products: scaled by `logit_scale`, then bounded by `logit_softcap`."""
    if head.logit_scale != 1.0:
        logits = logits * head.logit_scale
    if head.logit_softcap is not None:
        logits = head.logit_softcap * torch.tanh(logits / head.logit_softcap)
    return logits


def _tie_after_loading(model: HybridModel, _: object) -> None:
    model.tie_weights()


def check_is_hybrid(model: object) -> HybridModel:
    """Returns a model of hybridgen's, without what torch.compile wrapped around it.

    Raises:
        HybridgenError: If it is none.
    """
    inner = getattr(model, "_orig_mod", model)
    if not isinstance(inner, HybridModel):
        raise HybridgenError(
            f"this needs a model of hybridgen's, from hg.build or hg.load; given {type(inner).__name__}"
        )
    return inner


def base_model(model: nn.Module) -> nn.Module:
    """Returns the model without its head: the module that `base_model_prefix` names, or the model itself.

    Works on our models and on Hugging Face's alike.

    Raises:
        HybridgenError: If it is no model.
    """
    prefix = getattr(model, "base_model_prefix", "")
    if not isinstance(model, nn.Module) or not isinstance(prefix, str):
        raise HybridgenError(
            f"base_model takes a model, whose base_model_prefix is a name; given {type(model).__name__}"
        )
    core: nn.Module = getattr(model, prefix, model)
    return core
