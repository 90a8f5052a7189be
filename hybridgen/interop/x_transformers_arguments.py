"""The constructor arguments of x-transformers' `TransformerWrapper` and `Decoder`, checked before they are read.

An argument is read (a field of the classes here), or changes no value (`NEUTRAL`), or must be as upstream has it by
default (`WRAPPER_DEFAULTS`, `DECODER_DEFAULTS`). The names and defaults are those of version 2.31.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from hybridgen.errors import Fault, SpecError, UnsupportedError
from hybridgen.interop.upstream_fields import Section, join, read_section
from hybridgen.interop.x_transformers_options import NEUTRAL, REASONS
from hybridgen.layers.alibi import alibi_slopes
from hybridgen.spec.base import NonNegativeInt, PositiveFloat, PositiveInt, Share, Spec
from hybridgen.spec.parts import LayerCount
from hybridgen.spec.report import flow, shown

TITLE = "x-transformers"
LAYERS = "attn_layers"
ROTARY_BASE = 10000.0

Mult = Annotated[int | float, Field(gt=0, le=1024)]


class WrapperFields(Spec):
    """What is read of the arguments of `TransformerWrapper`."""

    num_tokens: PositiveInt
    max_seq_len: NonNegativeInt
    attn_layers: Section
    emb_dim: PositiveInt | None = None
    tie_embedding: bool = False
    tie_embedding_scale: PositiveFloat | None = None
    logits_dim: PositiveInt | None = None
    use_abs_pos_emb: bool = True
    emb_dropout: Share = 0.0
    num_memory_tokens: NonNegativeInt | None = None


class StackFields(Spec):
    """What is read of the arguments of `Decoder` that hold for all layers."""

    dim: PositiveInt
    depth: LayerCount
    heads: PositiveInt = 8
    only_attn: bool = False
    use_rmsnorm: bool = False
    norm_add_unit_offset: bool = True
    pre_norm: bool = True
    sandwich_norm: bool = False
    residual_attn: bool = False
    rotary_pos_emb: bool = False
    rotary_emb_dim: PositiveInt | None = None
    rotary_base_rescale_factor: PositiveFloat = 1.0
    disable_abs_pos_emb: bool | None = None
    add_value_residual: bool = False
    learned_value_residual_mix: bool = True
    layer_dropout: Share = 0.0
    attn_dim_head: PositiveInt = 64
    alibi_pos_bias: bool = False
    alibi_num_heads: PositiveInt | None = None
    rel_pos_kwargs: Section = Field(default={})


class LayerFields(Spec):
    """What is read of the arguments of `Decoder` that may be a list of one value per layer."""

    attn_kv_heads: PositiveInt | None = None
    attn_one_kv_head: bool = False
    attn_project_out: bool | None = None
    attn_max_attend_past: NonNegativeInt | None = None
    attn_selective: bool = False
    attn_softclamp_logits: bool = False
    attn_logit_softclamp_value: PositiveFloat = 50.0
    attn_head_learned_sink: bool = False
    attn_gate_values: bool = False
    attn_gate_values_headwise: bool = False
    ff_mult: Mult = 4
    ff_glu: bool = False
    ff_swish: bool = False
    ff_relu_squared: bool = False
    ff_no_bias: bool = False
    attn_dropout: Share = 0.0
    ff_dropout: Share = 0.0

    def kv_heads(self, heads: int) -> int:
        """Key-value heads of a layer with so many query heads."""
        return 1 if self.attn_one_kv_head else self.attn_kv_heads or heads


WRAPPER_DEFAULTS: dict[str, Any] = {
    "embed_num_tokens": {}, "max_mem_len": 0, "shift_mem_down": 0, "post_emb_norm": False,
    "memory_tokens_interspersed_every": None, "return_only_embed": False,
    "num_output_heads": 1, "scaled_sinu_pos_emb": False, "l2norm_embed": False, "recycling": False,
    "train_max_recycle_steps": 4, "looped": False, "max_looped_steps": 4, "emb_frac_gradient": 1.0,
    "attn_z_loss_weight": 0.0001, "average_pool_embed": False, "use_cls_token": False, "num_cls_tokens": 1,
    "attn_pool": False, "num_pooled_tokens": 1, "attn_pool_depth": 1, "dim_pooled_tokens": None,
    "squeeze_out_last_dim": False, "token_emb": None, "mixture_of_softmax": False, "mixture_of_softmax_k": 4,
    "sigsoftmax_logits": False, "ff_deep_embed": False, "to_logits": None, "add_continuous_pred_head": False,
    "input_not_include_cache": False,
}  # fmt: skip
DECODER_DEFAULTS: dict[str, Any] = {
    "causal": True, "cross_attend": False, "only_cross": False, "use_scalenorm": False, "use_dynamic_tanh": False,
    "use_derf": False, "dynamic_tanh_init_alpha": 1.0, "use_simple_rmsnorm": False, "use_adaptive_layernorm": False,
    "use_adaptive_rmsnorm": False, "use_adaptive_layerscale": False, "dim_condition": None,
    "adaptive_condition_mlp": False, "adaptive_condition_mlp_expansion": 4,
    "rel_pos_bias": False, "rel_pos_num_buckets": 32, "rel_pos_max_distance": 128,
    "dynamic_pos_bias": False, "dynamic_pos_bias_log_distance": False, "dynamic_pos_bias_mlp_depth": 2,
    "dynamic_pos_bias_norm": False, "rotary_xpos": False, "rotary_interpolation_factor": 1.0,
    "rotary_xpos_scale_base": 512, "rotate_num_heads": None, "polar_pos_emb": False,
    "polar_bias_uniform_init": False, "weight_tie_layers": False, "custom_layers": None,
    "layers_execute_order": None, "sandwich_coef": None, "par_ratio": None,
    "cross_residual_attn": False, "macaron": False, "pre_norm_has_final_norm": True,
    "pre_and_post_norm": False, "attn_aggregated_residuals": False, "attn_aggregated_residual_kwargs": {},
    "gate_residual": False, "orthog_residual": False, "mv_split_residual": False, "gated_multi_residual": False,
    "scale_residual": False, "scale_residual_constant": 1.0, "depth_scale_residual": False, "shift_tokens": 0,
    "softclamp_output": False, "softclamp_output_value": 30.0,
    "cross_attn_tokens_dropout": 0.0, "use_layerscale": False, "layerscale_init_value": 0.0, "unet_skips": False,
    "integrate_layers": False, "layer_integrate_use_softmax": True, "num_residual_streams": 1,
    "qkv_receive_diff_residuals": False, "reinject_input": False, "learned_reinject_input_gate": False,
    "residual_fn_kwargs": {},
    "hyper_conn_sinkhorn_iters": 5,
    "attn_dim_context": None, "attn_pre_talking_heads": False, "attn_post_talking_heads": False,
    "attn_pre_scale_post_talking_heads": False, "attn_head_scale": False, "attn_sparse_topk": None,
    "attn_sparse_topk_straight_through": False, "attn_num_mem_kv": 0,
    "attn_sublayer_dropout": 0.0, "attn_on_attn": False, "attn_gate_value_heads": False,
    "attn_swiglu_values": False, "attn_gate_values_rank": None, "attn_output_gate": False,
    "attn_output_gate_rank": None, "attn_output_gate_headwise": False, "attn_low_rank_silu_gates": True,
    "attn_hard": False, "attn_qk_norm": False, "attn_qk_norm_groups": 1, "attn_qk_norm_scale": 10,
    "attn_qk_norm_dim_scale": False, "attn_qk_rmsnorm": False, "attn_k_rmsnorm": False,
    "attn_value_rmsnorm": False, "attn_l2_distance": False, "attn_sigmoid": False, "attn_gumbel_softmax": False,
    "attn_gumbel_softmax_temp": 1.0, "attn_gumbel_softmax_hard": True, "attn_cog_signed": False,
    "attn_custom_attn_fn": None, "attn_hybrid_module": None, "attn_hybrid_mask_kwarg": None,
    "attn_hybrid_fold_axial_dim": None, "attn_hybrid_learned_mix": False, "attn_value_dim_head": None,
    "attn_dim_out": None, "attn_add_zero_kv": False, "attn_data_dependent_alibi": False,
    "attn_data_dependent_alibi_per_row": False, "attn_data_dependent_alibi_per_row_dim_head": 8,
    "attn_data_dependent_alibi_kwargs": {}, "attn_use_rel_proj_pos_bias": False,
    "attn_rel_proj_num_distance_basis": 16, "attn_rel_proj_max_dist": 1024, "attn_use_cope": False,
    "attn_cope_max_pos": 16, "attn_cope_soft_onehot_pos": False, "attn_cope_talking_heads": False,
    "attn_orthog_projected_values": False, "attn_orthog_projected_values_per_head": False, "attn_laser": False,
    "attn_laser_softclamp_value": 15.0, "attn_use_latent_q": False, "attn_dim_latent_q": None,
    "attn_use_latent_kv": False, "attn_dim_latent_kv": None, "attn_latent_rope_subheads": None,
    "attn_inverted_attention": False, "attn_flash_pack_seq": False,
    "ff_dim_out": None, "ff_glu_mult_bias": False, "ff_solu": False, "ff_custom_activation": None,
    "ff_post_act_ln": False, "ff_sublayer_dropout": 0.0, "ff_softclamp_value": None,
    "ff_glu_softclamp": False, "ff_glu_gate_softclamp_value": 4.0, "ff_glu_up_softclamp_value": 25.0,
}  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """The arguments of one instance, with upstream's defaults.

    Attributes:
        wrapper: Those of `TransformerWrapper`.
        stack: Those of `Decoder` for all layers.
        layers: The others, layer by layer.
    """

    wrapper: WrapperFields
    stack: StackFields
    layers: tuple[LayerFields, ...]

    @property
    def rotary_dim(self) -> int:
        """Rotated channels of each head; 0 is none."""
        if not self.stack.rotary_pos_emb:
            return 0
        return self.stack.attn_dim_head // 2 if self.stack.rotary_emb_dim is None else self.stack.rotary_emb_dim

    @property
    def slopes(self) -> tuple[float, ...] | None:
        """What each query head's scores lose per token of distance; None without ALiBi."""
        stack = self.stack
        if not stack.alibi_pos_bias:
            return None
        biased = stack.heads if stack.alibi_num_heads is None else stack.alibi_num_heads
        given = stack.rel_pos_kwargs.get("slopes")
        own = alibi_slopes(biased) if given is None else tuple(given)
        return (*own, *[0.0] * (stack.heads - len(own)))


def read_arguments(given: object) -> Arguments:
    """Checks and reads arguments; lists of one value per layer stand for upstream's tuples.

    Raises:
        SpecError: For arguments that upstream does not have, and values that an argument does not take.
        UnsupportedError: With every argument that is not at its default and has no counterpart in our models.
    """
    known = WrapperFields.model_fields.keys() | WRAPPER_DEFAULTS.keys()
    top = read_section(given, WrapperFields, known, "")
    own = StackFields.model_fields.keys() | LayerFields.model_fields.keys()
    known = own | NEUTRAL.keys() | DECODER_DEFAULTS.keys()
    section = top[LAYERS]
    cross = [name for name in section if isinstance(name, str) and name.startswith("cross_attn_")]
    section = read_section(section, StackFields, known | set(cross), LAYERS)
    defaults = dict.fromkeys(cross) | DECODER_DEFAULTS
    _refuse([*_changed(top, WRAPPER_DEFAULTS, ""), *_changed(section, defaults, LAYERS)])
    arguments = Arguments(
        WrapperFields.model_validate(_only(top, WrapperFields)),
        StackFields.model_validate(_only(section, StackFields)),
        _layers(section),
    )
    _check_rules(arguments)
    return arguments


def _only(section: Mapping[str, Any], kind: type[Spec]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name in kind.model_fields}


def _changed(section: Mapping[str, Any], defaults: Mapping[str, Any], path: str) -> list[str]:
    changed = []
    for name, value in section.items():
        if name in defaults and value != defaults[name]:
            reason = f" ({REASONS[name]})" if name in REASONS else ""
            changed.append(f"{join(path, name)}: {shown(value)}{reason}")
    return changed


def _refuse(faults: list[str]) -> None:
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise UnsupportedError(f"{TITLE}: what these arguments ask for cannot be imported\n{listed}")


def _layers(section: Mapping[str, Any]) -> tuple[LayerFields, ...]:
    """Gives every layer its arguments: upstream splits a tuple that has one value per layer."""
    depth, fields = section["depth"], _only(section, LayerFields)
    rule = f"a list must have one value per layer, {depth}"
    faults = [
        Fault(None, None, None, join(LAYERS, name), f"{rule}; given {shown(value)}")
        for name, value in fields.items()
        if isinstance(value, list) and len(value) != depth
    ]
    if faults:
        raise SpecError(faults)
    read: dict[str, LayerFields] = {}
    layers = []
    for index in range(depth):
        own = {name: value[index] if isinstance(value, list) else value for name, value in fields.items()}
        key = repr(own)
        if key not in read:
            read[key] = LayerFields.model_validate(read_section(own, LayerFields, LayerFields.model_fields, LAYERS))
        layers.append(read[key])
    return tuple(layers)


def _check_rules(arguments: Arguments) -> None:
    """Checks what upstream asserts, and refuses what it makes of the arguments and our models do not have."""
    wrapper, stack = arguments.wrapper, arguments.stack
    faults, lacking = [], []

    def fault(name: str, rule: str, fix: str) -> None:
        faults.append(Fault(None, None, None, join(LAYERS, name), rule, fix))

    if stack.sandwich_norm and not stack.pre_norm:
        fault("sandwich_norm", "needs pre_norm: true", "write sandwich_norm: false")
    rotary = arguments.rotary_dim
    if stack.rotary_pos_emb and (rotary % 2 or not 4 <= rotary <= stack.attn_dim_head):
        rule = f"must be even, at least 4 and at most attn_dim_head = {stack.attn_dim_head}; it comes to {rotary}"
        fault("rotary_emb_dim", rule, "set rotary_emb_dim")
    for layer in dict.fromkeys(arguments.layers):
        if layer.attn_kv_heads is not None and layer.attn_one_kv_head:
            fault("attn_kv_heads", "cannot be given together with attn_one_kv_head: true", "remove one of the two")
        elif stack.heads % (layer.attn_kv_heads or 1):
            rule = f"must divide heads = {stack.heads}; given {layer.attn_kv_heads}"
            fault("attn_kv_heads", rule, "choose a divisor")
        projects = stack.heads > 1 if layer.attn_project_out is None else layer.attn_project_out
        if not projects:
            lacking.append(f"{LAYERS}.{'heads: 1' if stack.heads == 1 else 'attn_project_out: false'} (no map to_out)")
        if layer.attn_gate_values_headwise and not layer.attn_gate_values:
            fault("attn_gate_values_headwise", "needs attn_gate_values: true", "write attn_gate_values: true")
    if stack.alibi_num_heads is not None and stack.alibi_num_heads > stack.heads:
        fault("alibi_num_heads", f"must be at most {stack.heads}; given {stack.alibi_num_heads}", "remove it")
    elif stack.alibi_pos_bias:
        _check_slopes(stack, fault)
    if _gates_shared_values(arguments):
        rule = "needs as many key-value heads as heads, its gate is one per head; upstream fails when it runs"
        fault("add_value_residual", rule, "write learned_value_residual_mix: false")
    if faults:
        raise SpecError(dict.fromkeys(faults))
    lacking += [f"{LAYERS}.rel_pos_kwargs.{name}" for name in stack.rel_pos_kwargs if name != "slopes"]
    has_positions = wrapper.use_abs_pos_emb and wrapper.max_seq_len > 0
    if has_positions and not (stack.rotary_pos_emb if stack.disable_abs_pos_emb is None else stack.disable_abs_pos_emb):
        lacking.append("use_abs_pos_emb: true (absolute positions, which upstream adds unless told otherwise)")
    for name, usual in (("emb_dim", stack.dim), ("logits_dim", wrapper.num_tokens)):
        if getattr(wrapper, name) not in (None, usual):
            lacking.append(f"{name}: {flow(getattr(wrapper, name))}")
    _refuse(list(dict.fromkeys(lacking)))


def _gates_shared_values(arguments: Arguments) -> bool:
    stack = arguments.stack
    if not (stack.add_value_residual and stack.learned_value_residual_mix):
        return False
    return any(layer.kv_heads(stack.heads) != stack.heads for layer in arguments.layers[1:])


def _check_slopes(stack: StackFields, fault: Callable[[str, str, str], None]) -> None:
    """Checks the slopes that the constructor of the bias may be given."""
    slopes = stack.rel_pos_kwargs.get("slopes")
    if slopes is None:
        return
    numbers = isinstance(slopes, list) and all(
        isinstance(slope, int | float) and not isinstance(slope, bool) and 0 <= slope < math.inf for slope in slopes
    )
    if not numbers or not 1 <= len(slopes) <= stack.heads:
        rule = f"must be a list of at most heads = {stack.heads} numbers, none negative; given {flow(slopes)}"
        fault("rel_pos_kwargs.slopes", rule, "remove it for the usual slopes")
