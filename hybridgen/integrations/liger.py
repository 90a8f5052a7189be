"""Liger-Kernel's Triton kernels in any model of ours, chosen by the types of its modules.

`apply` changes one model. `register` makes Liger know the model type `hybridgen`, for `TrainingArguments(
use_liger_kernel=True)` and `AutoLigerKernelForCausalLM`. Source: Hsu and others, "Liger Kernel", 2410.10989.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import MethodType, ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridgen.errors import BackendUnavailableError, HybridgenError, UnsupportedError
from hybridgen.layers.mixers.attention import Attention
from hybridgen.layers.mlp import Mlp
from hybridgen.layers.norms import GatedRmsNorm, Norm
from hybridgen.ops.add_norm.plain import upcast
from hybridgen.ops.triton import interpreted

MODEL_TYPE = "hybridgen"
_TABLE = "liger_kernel.transformers.monkey_patch"
_LOSS = "linear_cross_entropy"
_GATES = ("silu", "gelu_tanh")

Outcome = Literal[True] | str | None
"""True for a module that was replaced, words for one that was not, None for one of another kind."""


@dataclass(frozen=True)
class Report:
    """What `apply` did.

    Attributes:
        replaced: How many parts run Liger's kernels, by the option that asked for it.
        left: Why a part of a kind that was asked for keeps our own operator, by the name of its module.
    """

    replaced: dict[str, int] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def apply(
    model: nn.Module,
    rms_norm: bool = True,
    swiglu: bool = True,
    rope: bool = True,
    fused_linear_cross_entropy: bool = True,
) -> Report:
    """Makes a model run Liger's kernels, in place; a second call changes nothing, and there is no way back.

    Args:
        model: Any model with layers of ours, from `hg.build`, `hg.load` or `hybridgen.hf`, also inside PEFT's adapters.
        rms_norm: Whether to take its RMS norms, with the addition in front of them, and its layer norms.
        swiglu: Whether to take its products of gated MLPs, for the gates `silu` and `gelu_tanh`.
        rope: Whether to take its rotation of queries and keys by halves.
        fused_linear_cross_entropy: Whether to take its loss of a linear head, in a language model of `hybridgen.hf`.

    Raises:
        BackendUnavailableError: If Liger-Kernel is not installed or does not load, or there is no CUDA GPU.
        HybridgenError: If nothing in the model is ours.
        UnsupportedError: If the model is in float64.
    """
    if not isinstance(model, nn.Module) or not any(isinstance(one, Norm | Mlp | Attention) for one in model.modules()):
        raise HybridgenError(
            f"liger.apply takes a model with layers of hybridgen, and finds none in {type(model).__name__}; for other "
            f"models of transformers see liger_kernel.transformers"
        )
    if any(parameter.dtype == torch.float64 for parameter in model.parameters()):
        raise UnsupportedError("Liger's kernels compute in float32, and this model is in float64: model.float() first")
    check_available()
    kinds: dict[str, Callable[[nn.Module], Outcome]] = {}
    kinds |= {"rms_norm": _take_norm} if rms_norm else {}
    kinds |= {"swiglu": _take_mlp} if swiglu else {}
    kinds |= {"rope": _take_rotation} if rope else {}
    kinds |= {"fused_linear_cross_entropy": _take_loss} if fused_linear_cross_entropy else {}
    report = Report(dict.fromkeys(kinds, 0))
    for name, module in model.named_modules():
        for option, take in kinds.items():
            outcome = take(module)
            if outcome is True:
                report.replaced[option] += 1
            elif outcome is not None:
                report.left[name] = f"{report.left[name]}; {outcome}" if name in report.left else outcome
    return report


def check_available() -> None:
    """Makes sure that Liger's kernels can run: on a CUDA GPU, or in Triton's interpreter (`TRITON_INTERPRET=1`).

    Raises:
        BackendUnavailableError: If they cannot.
    """
    if find_spec("liger_kernel") is None:
        raise BackendUnavailableError(
            "Liger's kernels are in liger-kernel, which is not installed: pip install 'hybridgen[liger]'"
        )
    if not (torch.cuda.is_available() or interpreted()):
        raise BackendUnavailableError(
            "Liger-Kernel needs a CUDA GPU and triton, and torch sees no GPU here; leave it out: on the CPU "
            "hybridgen's own kernels run without asking"
        )
    try:
        importlib.import_module("liger_kernel.ops")
    except ImportError as error:
        raise BackendUnavailableError(
            f"liger-kernel is installed but does not load ({error}); pip install 'hybridgen[liger]' brings its needs"
        ) from error


def _take_norm(module: nn.Module) -> Outcome:
    if isinstance(module, GatedRmsNorm):
        return "Liger has no gated norm"
    if not isinstance(module, Norm):
        return None
    if module.kind == "rms" and module.bias is None:
        return _bind(module, _rms_norm)
    if module.kind == "layer" and module.bias is not None and not module.offset:
        return _bind(module, _layer_norm)
    if module.kind == "rms":
        return "Liger's RMS norm has no bias"
    return "Liger's layer norm always has a bias, and no unit offset"


def _take_mlp(module: nn.Module) -> Outcome:
    if isinstance(module, Attention) and module.mlp_dim:
        return "the MLP beside the attention is part of it"
    if not isinstance(module, Mlp):
        return None
    if module.spec.gated and module.spec.gate_activation in _GATES:
        return _bind(module, _gated_mlp)
    kind = "gated" if module.spec.gated else "plain"
    return f"Liger has no {kind} MLP with {module.spec.gate_activation}"


def _take_rotation(module: nn.Module) -> Outcome:
    if not isinstance(module, Attention) or not module.spec.rotary_emb_dim:
        return None
    if module.spec.rotary_emb_interleaved:
        return "Liger rotates by halves, and rotary_emb_interleaved pairs neighbouring channels"
    module.rotate = _rotated
    return True


def _take_loss(module: nn.Module) -> Outcome:
    if _LOSS not in module.__dict__:
        return None
    setattr(module, _LOSS, linear_cross_entropy)
    return True


def _bind(module: nn.Module, forward: Callable[..., Any]) -> Literal[True]:
    # accelerate's hooks (device_map) stand in `forward`, and call what they found there under this name.
    name = "_old_forward" if hasattr(module, "_hf_hook") else "forward"
    setattr(module, name, MethodType(forward, module))
    return True


def _rms_norm(
    module: Norm, x: Tensor, residual: Tensor | None = None, total_dtype: torch.dtype | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Computes `Norm.forward` of kind rms.

    Liger's fused kernel rounds the sum to x's dtype before it reads it, and ours does not: it is taken where everything
    is in float32, and elsewhere the sum is PyTorch's.
    """
    from liger_kernel.ops import LigerFusedAddRMSNormFunction, LigerRMSNormFunction

    # "gemma": all in float32 up to the result. Not in place: others may hold the gradient.
    weight, options = module.weight, (module.eps, module.offset, "gemma", False)
    dtypes = {x.dtype, weight.dtype, total_dtype or torch.float32}
    if residual is not None and dtypes | {residual.dtype} == {torch.float32}:
        y, total = LigerFusedAddRMSNormFunction.apply(x, residual, weight, *options)
        return y if total_dtype is None else (y, total)
    total = x if residual is None else upcast(residual) + x
    return _with_total(LigerRMSNormFunction.apply(_as(weight, total), weight, *options), weight, total, total_dtype)


def _layer_norm(
    module: Norm, x: Tensor, residual: Tensor | None = None, total_dtype: torch.dtype | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Computes `Norm.forward` of kind layer, with a bias and without an offset."""
    from liger_kernel.ops import LigerLayerNormFunction

    weight, total = module.weight, x if residual is None else upcast(residual) + x
    y = LigerLayerNormFunction.apply(_as(weight, total), weight, module.bias, module.eps)
    return _with_total(y, weight, total, total_dtype)


def _as(weight: Tensor, x: Tensor) -> Tensor:
    """Returns x in a dtype in which Liger's norm, which returns that of its input, loses nothing."""
    return x if x.dtype == weight.dtype else upcast(x)


def _with_total(
    y: Tensor, weight: Tensor, total: Tensor, total_dtype: torch.dtype | None
) -> Tensor | tuple[Tensor, Tensor]:
    y = y.to(weight.dtype)
    return y if total_dtype is None else (y, total.to(total_dtype))


def _gated_mlp(module: Mlp, x: Tensor) -> Tensor:
    """Computes `Mlp.forward` of a gated MLP; see `gated_activation`."""
    from liger_kernel.ops import LigerGELUMulFunction, LigerSiLUMulFunction

    product = LigerSiLUMulFunction if module.spec.gate_activation == "silu" else LigerGELUMulFunction
    value, gate = module.fc1(x).chunk(2, dim=-1)
    hidden = product.apply(gate, value)
    if module.spec.dropout:
        hidden = functional.dropout(hidden, module.spec.dropout, module.training)
    return module.fc2(hidden)


def _rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Computes `apply_rotary` of queries (B, T, H, P) and keys (B, T, K, P), by halves."""
    from liger_kernel.ops import LigerRopeFunction

    # Two empty places: Liger's position_ids, which it does not read, and the axis of heads in a table that has one.
    options = (None, 1, 2 * cos.shape[-1])
    q, k = LigerRopeFunction.apply(q.transpose(1, 2), k.transpose(1, 2), cos, sin, *options)
    return q.transpose(1, 2), k.transpose(1, 2)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Computes `hybridgen.ops.linear_cross_entropy` by Liger's kernel; see there for what it takes.

    Liger knows no scale, so that of the logits goes into hidden states and bias, which are rounded to their dtype after
    it. Gradients of the head are summed in float32. A mean over no label is 0, not NaN.
    """
    from liger_kernel.ops import LigerFusedLinearCrossEntropyFunction

    if logit_scale != 1.0:
        hidden, bias = hidden * logit_scale, None if bias is None else bias * logit_scale
    head_learns = weight.requires_grad or (bias is not None and bias.requires_grad)
    if torch.is_grad_enabled() and head_learns and not hidden.requires_grad:
        # Liger computes the head's gradient only beside that of the hidden states.
        hidden = hidden.detach().requires_grad_()
    no_class_weights = None
    no_z_loss = no_smoothing = 0.0
    options = (ignore_index, no_z_loss, no_smoothing, reduction, logit_softcap, False, torch.float32)
    loss: Tensor = LigerFusedLinearCrossEntropyFunction.apply(hidden, weight, labels, bias, no_class_weights, *options)[
        0
    ]
    return loss


_for_new_models: dict[str, bool] | None = None


def apply_to_new(model: nn.Module) -> None:
    """Applies to a model of `hybridgen.hf` that was just made what Liger was asked for before any model was there.

    `AutoLigerKernelForCausalLM` asks so. As for every other model type this holds for all models made from then on.
    """
    if _for_new_models is not None:
        apply(model, **_for_new_models)


def _apply_liger_kernel_to_hybridgen(
    rms_norm: bool = True,
    swiglu: bool = True,
    rope: bool = True,
    fused_linear_cross_entropy: bool = True,
    model: nn.Module | None = None,
) -> None:
    """What Liger calls: for one model, or with None for those made later. It hands on only options named here."""
    global _for_new_models  # noqa: PLW0603
    options = {
        "rms_norm": rms_norm,
        "swiglu": swiglu,
        "rope": rope,
        "fused_linear_cross_entropy": fused_linear_cross_entropy,
    }
    if model is not None:
        apply(model, **options)
        return
    check_available()
    _for_new_models = options


def register() -> None:
    """Puts the model type `hybridgen` into Liger's table: at once if that is loaded, otherwise as soon as it is.

    Importing Liger takes half a second and more, and needs triton: who does not use it shall not pay for it.
    """
    module = sys.modules.get(_TABLE)
    if module is not None:
        _enter(module)
    elif not any(isinstance(finder, _Registering) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Registering())


def _enter(module: ModuleType) -> None:
    module.MODEL_TYPE_TO_APPLY_LIGER_FN[MODEL_TYPE] = _apply_liger_kernel_to_hybridgen


class _Registering(MetaPathFinder):
    """Lets Liger's table be found as always, and adds to it once it is executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds that one module."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname == _TABLE else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_enter(module: ModuleType) -> None:
            execute(module)
            _enter(module)

        spec.loader.exec_module = execute_and_enter  # type: ignore[method-assign]
        return spec
