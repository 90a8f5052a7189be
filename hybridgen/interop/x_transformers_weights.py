"""The names and layouts of x-transformers' weights, and of ours.

Upstream's `layers` holds one entry per branch, [norms, module, residual] with norms [before, behind, after the sum]: of
layer l, 2l is the attention and 2l + 1 the MLP, or l the attention in a stack without MLPs.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from hybridgen.builder import DTYPES, build
from hybridgen.errors import CheckpointError
from hybridgen.layers.rotary import rotary_frequencies
from hybridgen.spec import ModelSpec
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.weight_names import check_names

_FREQUENCIES = "attn_layers.rotary_pos_emb.inv_freq"
# Of the frequencies in a file, relative: a file in half precision has them rounded too.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-6, torch.float16: 1e-2, torch.bfloat16: 1e-2}
_PARTS = ("to_q", "to_k", "to_v")


def fit_theirs(state_dict: Mapping[str, Tensor], spec: ModelSpec, where: str) -> dict[str, Tensor]:
    """Checks upstream's weights and returns them without the rotary frequencies.

    Raises:
        CheckpointError: With every missing, unexpected or wrongly shaped weight, or if one is of a type that models do
            not have, or if the frequencies are not those of the spec.
    """
    given = dict(state_dict)
    needed = _their_shapes(spec)
    if spec.head.type == "lm" and spec.head.tie_embeddings:
        needed.pop("to_logits.weight", None)
    check_names(needed, {name: tensor.shape for name, tensor in given.items()}, where)
    for name, tensor in given.items():
        if tensor.dtype not in DTYPES.values():
            raise CheckpointError(f"{where}: {name} is of {tensor.dtype}; weights are of {', '.join(DTYPES)}")
    frequencies = _frequencies(spec)
    if frequencies is not None:
        found = given.pop(_FREQUENCIES)
        if not torch.allclose(found.double().cpu(), frequencies.double(), rtol=_TOLERANCE[found.dtype], atol=1e-6):
            raise CheckpointError(f"{where}: {_FREQUENCIES} does not hold the frequencies of the configuration")
    return given


def ours_of(theirs: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Renames and rearranges upstream's weights, which must be complete."""
    weights = {ours: theirs[name] for ours, name in _names(spec) if name in theirs}
    for ours, entry, mixer in _attentions(spec):
        parts = [theirs[f"{entry}.{part}.weight"] for part in _PARTS]
        weights[f"{ours}.in_proj.weight"] = torch.cat([_grouped(parts[0], mixer), *parts[1:]])
        weights[f"{ours}.out_proj.weight"] = _grouped(theirs[f"{entry}.to_out.weight"].T, mixer).T.contiguous()
        for our_name, name in _by_head(mixer):
            weights[f"{ours}.{our_name}"] = _grouped(theirs[f"{entry}.{name}"], mixer)
    return weights


def theirs_of(weights: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Renames and rearranges our weights, which must be complete; adds the rotary frequencies."""
    theirs = {name: weights[ours] for ours, name in _names(spec)}
    for ours, entry, mixer in _attentions(spec):
        joined = weights[f"{ours}.in_proj.weight"]
        head = weights[f"{ours}.out_proj.weight"].shape[1] // mixer.num_heads
        widths = [mixer.num_heads * head, *[mixer.kv_heads() * head] * 2]
        q, k, v = (part.contiguous() for part in joined.split(widths))
        for part, tensor in zip(_PARTS, (_ungrouped(q, mixer), k, v), strict=True):
            theirs[f"{entry}.{part}.weight"] = tensor
        theirs[f"{entry}.to_out.weight"] = _ungrouped(weights[f"{ours}.out_proj.weight"].T, mixer).T.contiguous()
        for our_name, name in _by_head(mixer):
            theirs[f"{entry}.{name}"] = _ungrouped(weights[f"{ours}.{our_name}"], mixer)
    frequencies = _frequencies(spec)
    if frequencies is not None:
        table = theirs["token_emb.emb.weight"]
        theirs[_FREQUENCIES] = frequencies.to(table.device, table.dtype)
    return theirs


def _their_shapes(spec: ModelSpec) -> dict[str, Sequence[int]]:
    ours = build(spec, device="meta").state_dict()
    return {name: tensor.shape for name, tensor in theirs_of(ours, spec).items()}


def _names(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """Pairs of the names, ours and theirs, of weights that both have alike; a tied head has none upstream."""
    backbone = spec.backbone
    gain = "g" if backbone.norm.type == "rms" else "gamma"
    placement = backbone.norm_placement
    yield "backbone.embedding.weight", "token_emb.emb.weight"
    if spec.input.type == "tokens" and spec.input.memory_tokens:
        yield "backbone.memory_tokens", "memory_tokens"
    for index, layer in enumerate(backbone.layers):
        branches = [("", index if layer.mlp is None else 2 * index)]
        if layer.mlp is not None:
            branches.append(("2", 2 * index + 1))
        for suffix, branch in branches:
            ours, norms = f"backbone.layers.{index}", f"attn_layers.layers.{branch}.0"
            if placement == "residual":
                is_last = index == len(backbone.layers) - 1 and (layer.mlp is None or suffix == "2")
                yield "backbone.norm_f.weight" if is_last else f"{ours}.post_norm{suffix}.weight", f"{norms}.2.{gain}"
                continue
            yield f"{ours}.norm{suffix}.weight", f"{norms}.0.{gain}"
            if placement == "sandwich":
                yield f"{ours}.post_norm{suffix}.weight", f"{norms}.1.{gain}"
        if index and backbone.value_residual == "learned":
            for name in ("weight", "bias"):
                ours = f"backbone.layers.{index}.mixer.v_mix_proj.{name}"
                yield ours, f"attn_layers.layers.{branches[0][1]}.1.to_value_residual_mix.0.{name}"
        if layer.mlp is not None:
            ours, ff = f"backbone.layers.{index}.mlp", f"attn_layers.layers.{2 * index + 1}.1.ff"
            first = f"{ff}.0.proj" if layer.mlp.gated else f"{ff}.0.0"
            for our_map, their_map, has_bias in (
                ("fc1", first, layer.mlp.bias),
                ("fc2", f"{ff}.2", layer.mlp.has_out_bias()),
            ):
                for name in ("weight", "bias") if has_bias else ("weight",):
                    yield f"{ours}.{our_map}.{name}", f"{their_map}.{name}"
    if placement != "residual":
        yield "backbone.norm_f.weight", f"attn_layers.final_norm.{gain}"
    if spec.head.type == "lm" and not spec.head.tie_embeddings:
        yield "lm_head.weight", "to_logits.weight"


def _attentions(spec: ModelSpec) -> Iterator[tuple[str, str, AttentionSpec]]:
    """The attention of each layer: its name among ours, its name upstream, its spec."""
    for index, layer in enumerate(spec.backbone.layers):
        assert isinstance(layer.mixer, AttentionSpec)
        branch = index if layer.mlp is None else 2 * index
        yield f"backbone.layers.{index}.mixer", f"attn_layers.layers.{branch}.1", layer.mixer


def _by_head(mixer: AttentionSpec) -> Iterator[tuple[str, str]]:
    """Names, ours and theirs, of further weights whose first axis goes through the query heads."""
    if mixer.sink:
        yield "sinks", "attend.head_attn_sink"
    if mixer.output_gate != "none":
        yield "g_proj.weight", "to_v_gate.weight"


def _grouped(tensor: Tensor, mixer: AttentionSpec) -> Tensor:
    """Brings the query heads, along the first axis, from upstream's order into ours."""
    return _exchanged(tensor, mixer.num_heads // mixer.kv_heads(), mixer.kv_heads())


def _ungrouped(tensor: Tensor, mixer: AttentionSpec) -> Tensor:
    return _exchanged(tensor, mixer.kv_heads(), mixer.num_heads // mixer.kv_heads())


def grouped(values: Sequence[float], heads: int, kv_heads: int) -> tuple[float, ...]:
    """Brings one value per query head from upstream's order into ours; see `_exchanged`."""
    return tuple(values[index * kv_heads + kv] for kv in range(kv_heads) for index in range(heads // kv_heads))


def ungrouped(values: Sequence[float], heads: int, kv_heads: int) -> tuple[float, ...]:
    """Brings one value per query head from our order into upstream's."""
    return grouped(values, heads, heads // kv_heads)


def _exchanged(tensor: Tensor, outer: int, inner: int) -> Tensor:
    """Reads the first axis as (outer, inner, rest) and returns it as (inner, outer, rest)."""
    if outer == 1 or inner == 1:
        return tensor
    return tensor.unflatten(0, (outer, inner, -1)).transpose(0, 1).flatten(0, 2)


def _frequencies(spec: ModelSpec) -> Tensor | None:
    """The buffer that upstream stores beside the weights of a stack with rotary positions."""
    mixer = spec.backbone.layers[0].mixer
    if not isinstance(mixer, AttentionSpec) or not mixer.rotary_emb_dim:
        return None
    return rotary_frequencies(mixer.rotary_emb_dim, mixer.rotary_emb_base)
