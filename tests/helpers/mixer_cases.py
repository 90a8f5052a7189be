"""The mixers that the contract suite runs over: one small document per case. A new mixer adds an entry here."""

from typing import Any

import hybridgen as hg

D_MODEL = 32

_ATTENTION = {"num_heads": 4, "num_heads_kv": 2, "rotary_emb_dim": 8}
_MAMBA2 = {"type": "mamba2", "d_state": 8, "headdim": 16, "chunk_size": 16}


def _one_layer(mixer: dict[str, Any], **backbone: Any) -> dict[str, Any]:
    return {"backbone": {"d_model": D_MODEL, "blocks": {"x": {"mixer": mixer}}, "pattern": "x", **backbone}}


def _attention(**fields: Any) -> dict[str, Any]:
    return _one_layer({"type": "attention", **_ATTENTION, **fields})


def _mamba1(**fields: Any) -> dict[str, Any]:
    return _one_layer({"type": "mamba1", "d_state": 4, **fields})


def _mamba2(**fields: Any) -> dict[str, Any]:
    return _one_layer({**_MAMBA2, **fields})


MIXER_CASES: dict[str, dict[str, Any]] = {
    "attention-multi-head": _attention(num_heads_kv=4),
    "attention-grouped": _attention(),
    "attention-multi-query": _attention(num_heads_kv=1, rotary_emb_interleaved=True),
    "attention-no-rotary": _attention(rotary_emb_dim=0),
    "attention-partial-rotary": _attention(rotary_emb_dim=4, rotary_emb_base=500.0),
    "attention-partial-interleaved": _attention(rotary_emb_dim=4, rotary_emb_interleaved=True),
    "attention-free-head-dim": _attention(head_dim=12, qkv_proj_bias=False, out_proj_bias=False),
    "attention-scale": _attention(softmax_scale=0.5),
    "attention-window": _attention(window=5),
    "attention-window-one": _attention(window=1),
    "attention-qk-norm-head": _attention(qk_norm="head"),
    "attention-qk-norm-full": _attention(qk_norm="full"),
    "attention-softcap": _attention(logit_softcap=2.0),
    "attention-sink": _attention(sink=True),
    "attention-gate-elementwise": _attention(output_gate="elementwise"),
    "attention-gate-head": _attention(output_gate="head"),
    "attention-conv": _attention(d_conv=4),
    "attention-parallel-mlp": _attention(mlp_dim=200),
    "attention-selective": _attention(selective=True),
    "attention-selective-head": _attention(selective=True, selection_head=2, protect_bos=False, num_heads_kv=1),
    "attention-selective-everything": _attention(
        selective=True, selection_head=3, window=7, qk_norm="head", logit_softcap=5.0, sink=True, output_gate="head"
    ),
    "attention-pruned": _attention(selective=True, context_budget=6),
    "attention-pruned-to-two": _attention(selective=True, context_budget=2, selection_head=3, num_heads_kv=4),
    "attention-pruned-everything": _attention(
        selective=True,
        context_budget=9,
        selection_head=1,
        protect_bos=False,
        qk_norm="head",
        logit_softcap=5.0,
        sink=True,
        output_gate="head",
        d_conv=3,
        mlp_dim=256,
        num_heads_kv=1,
    ),
    "attention-alibi": _attention(alibi=True, rotary_emb_dim=0),
    "attention-alibi-slopes": _attention(alibi=True, alibi_slopes=[0.5, 0.0, 0.25, 0.375], window=6, num_heads_kv=1),
    "attention-alibi-selective": _attention(alibi=True, selective=True, selection_head=1, logit_softcap=3.0),
    "attention-everything": _attention(
        window=7, qk_norm="head", logit_softcap=5.0, sink=True, output_gate="head", d_conv=3, mlp_dim=256, head_dim=16
    ),
    "mamba1": _mamba1(),
    "mamba1-weightless-norm": _mamba1(bcdt_norm="weightless"),
    "mamba1-learned-norm": _mamba1(bcdt_norm="learned"),
    "mamba1-variants": _mamba1(
        d_conv=2, expand=1.5, dt_rank=3, conv_bias=False, bias=True, conv_activation="tanh", gate_activation="gelu"
    ),
    "mamba1-no-memory-conv": _mamba1(d_conv=1, dt_init="constant"),
    "mamba1-layer-scale": _mamba1(layer_scale=0.5),
    "mamba2": _mamba2(),
    "mamba2-groups": _mamba2(ngroups=2, norm_before_gate=True),
    "mamba2-no-norm": _mamba2(rmsnorm=False, D_has_hdim=True, conv_bias=False),
    "mamba2-parallel-mlp": _mamba2(d_ssm=32, bias=True, gate_activation="relu2"),
    "mamba2-dt-limit": _mamba2(dt_limit=[0.01, 0.05], conv_init=0.5),
    "mamba2-large-chunk": _mamba2(chunk_size=256, d_conv=5),
    "mamba2-layer-scale": _mamba2(layer_scale=0.5),
}

WHOLE_MIXERS: dict[str, dict[str, Any]] = {
    "mamba1-v1": _mamba1(bidirectional="v1"),
    "mamba1-v2": _mamba1(bidirectional="v2"),
    "mamba1-v2-variants": _mamba1(
        bidirectional="v2",
        divide_out=True,
        layer_scale=0.5,
        d_conv=2,
        conv_bias=False,
        bias=True,
        conv_activation="tanh",
        gate_activation="gelu",
        bcdt_norm="learned",
        backward_dt_init="same_as_forward",
    ),
    "mamba1-shared-proj": _mamba1(scan="vim", scan_share=["proj", "A"]),
    "mamba1-from-the-end": _mamba1(scan=["row_reverse"]),
    "mamba2-v1": _mamba2(bidirectional="v1"),
    "mamba2-v2": _mamba2(bidirectional="v2"),
    "mamba2-v2-variants": _mamba2(
        bidirectional="v2", divide_out=True, layer_scale=0.5, d_ssm=32, D_has_hdim=True, rmsnorm=False, bias=True,
        gate_activation="relu2", dt_limit=[0.01, 0.05],
    ),
    "mamba2-groups-shared-conv": _mamba2(
        scan=["row_reverse", "row"], scan_share=["conv", "D"], ngroups=2, norm_before_gate=True, conv_bias=False
    ),
}  # fmt: skip
"""Mixers whose earlier outputs depend on later tokens: called on whole sequences, without a state."""

_HYBRID_BLOCKS: dict[str, Any] = {
    "m": {"mixer": {"type": "mamba1", "d_state": 4}},
    "s": {"mixer": _MAMBA2, "mlp": {"d_intermediate": 40, "multiple_of": 8}},
    "a": {
        "mixer": {"type": "attention", **_ATTENTION},
        "mlp": {"d_intermediate": 64, "gated": False, "gate_activation": "relu2", "bias": True},
    },
    "w": {"mixer": {"type": "attention", **_ATTENTION, "window": 6, "d_conv": 3}},
    "f": {"mlp": {"d_intermediate": 48, "gate_activation": "gelu"}},
}

STACK_CASES: dict[str, dict[str, Any]] = {
    f"hybrid-{placement}-{norm}": {
        "backbone": {
            "d_model": D_MODEL,
            "blocks": _HYBRID_BLOCKS,
            "pattern": "m s a f w",
            "norm": {"type": norm, "unit_offset": placement == "sandwich"},
            "norm_placement": placement,
        }
    }
    for placement, norm in (("pre", "rms"), ("post", "layer"), ("sandwich", "rms"), ("residual", "layer"))
}

STACK_CASES["hybrid-pruned"] = {
    "backbone": {
        "d_model": D_MODEL,
        "blocks": {
            **_HYBRID_BLOCKS,
            "p": {"mixer": {"type": "attention", **_ATTENTION, "selective": True, "context_budget": 8}},
        },
        "pattern": "m p f s p a",
    }
}
_PRUNED: dict[str, Any] = {"type": "attention", **_ATTENTION, "selective": True, "context_budget": 7}
STACK_CASES["pruned-guided"] = {
    "backbone": {
        "d_model": D_MODEL,
        "blocks": {
            **_HYBRID_BLOCKS,
            "p": {"mixer": _PRUNED},
            "g": {"mixer": {**_PRUNED, "selection_from": "guide", "num_heads_kv": 1, "rotary_emb_dim": 0}},
        },
        "pattern": "p g m p a g g",
    }
}

_RESIDUAL_BLOCKS: dict[str, Any] = {
    **_HYBRID_BLOCKS,
    "v": {"mixer": {"type": "attention", **_ATTENTION, "num_heads_kv": 4, "logit_softcap": 4.0, "selective": True}},
    "l": {"mixer": {"type": "attention", **_ATTENTION, "rotary_emb_dim": 0, "alibi": True, "window": 9}},
}
_CARRIES: dict[str, dict[str, Any]] = {
    "raw": {},
    "mean": {"carry": "mean", "cross_block": False},
    "upstream": {"carry": "upstream"},
    "short": {"every": 2},
}
STACK_CASES |= {
    f"residual-{name}": {
        "backbone": {
            "d_model": D_MODEL,
            "blocks": _RESIDUAL_BLOCKS,
            "pattern": "v m w l a f v",
            "residual_attn": carry,
        }
    }
    for name, carry in _CARRIES.items()
}

STACK_CASES["selection-over-depth"] = {
    "backbone": {
        "d_model": D_MODEL,
        "blocks": {
            **_HYBRID_BLOCKS,
            **{
                name: {"mixer": {"type": "attention", **_ATTENTION, "selective": True, "selection_from": source}}
                for name, source in (("v", "self"), ("g", "guide"), ("c", "accumulate"), ("p", "previous"))
            },
        },
        "pattern": "v m g a c g s p",
    }
}

_VALUES: dict[str, dict[str, Any]] = {
    "values-learned": {"value_residual": "learned"},
    "values-dropouts": {"value_residual": "half", "layer_dropout": 0.5},
    "values-half-residual-attn": {"value_residual": "half", "residual_attn": {"every": 2}},
}
_VALUE_BLOCKS = {
    **_HYBRID_BLOCKS,
    "v": {"mixer": {"type": "attention", **_ATTENTION, "selective": True, "mlp_dim": 256}},
    "d": {"mixer": {"type": "attention", **_ATTENTION, "sink": True, "dropout": 0.3}},
}
STACK_CASES |= {
    name: {
        "backbone": {
            "d_model": D_MODEL,
            "blocks": _VALUE_BLOCKS,
            "pattern": f"m a s w f {'d' if 'dropouts' in name else 'v'}",
            **fields,
        }
    }
    for name, fields in _VALUES.items()
}

CASES = {**MIXER_CASES, **STACK_CASES}

WHOLE_CASES: dict[str, dict[str, Any]] = {
    **WHOLE_MIXERS,
    "attention-everywhere": _attention(causal=False),
    "hybrid-whole": {
        "backbone": {
            "d_model": D_MODEL,
            "blocks": {
                **_HYBRID_BLOCKS,
                "v": {"mixer": {"type": "mamba1", "d_state": 4, "bidirectional": "v2", "layer_scale": 0.5}},
                "t": {"mixer": {**_MAMBA2, "bidirectional": "v1"}},
                "e": {"mixer": {"type": "attention", **_ATTENTION, "causal": False}},
            },
            "pattern": "v m e f t s",
        }
    },
}
EVERY_CASE = {**CASES, **WHOLE_CASES}


def make(name: str, dtype: str = "float32", seed: int = 0) -> Any:
    """Builds a case, with every parameter moved off its starting value so that a forgotten one shows."""
    import torch

    model = hg.build(hg.ModelSpec.model_validate(EVERY_CASE[name]), dtype=dtype, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise.to(parameter.dtype))
    return model
