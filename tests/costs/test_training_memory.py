"""The memory of a training step, worked out from the spec, against what a built model really holds on the CPU."""

import pytest
import torch

import hybridgen as hg
from hybridgen.costs.results import Checkpointing
from hybridgen.model.checkpointing import checkpoint_layers
from hybridgen.objectives.memory import peak_bytes
from tests.helpers.memory import training_peak

ROTATED = {"num_heads": 8, "num_heads_kv": 2, "rotary_emb_dim": 32, "qkv_proj_bias": False, "out_proj_bias": False}
ZONOS = {
    "attn_layer_idx": "0::4",
    "ssm": {"type": "mamba2"},
    "attn": ROTATED,
    "attn_mlp_d_intermediate": 1024,
    "norm": {"type": "layer"},
    "residual_in_fp32": False,
}
MAMBA2ATTN = {
    "attn_layer_idx": [1, 3],
    "ssm": {"type": "mamba2"},
    "attn": {"num_heads": 3, "head_dim": 128, "rotary_emb_dim": 64, "d_conv": 4},
}
STACKS = {
    "mamba1": {"ssm": {"type": "mamba1"}},
    "mamba2": {"ssm": {"type": "mamba2"}},
    "attention": {"attn_layer_idx": "all", "attn": ROTATED},
    "attention+mlp": {"attn_layer_idx": "all", "attn": ROTATED, "attn_mlp_d_intermediate": 768},
    "mlp": {"blocks": {"m": {"mlp": {"d_intermediate": 1024, "gated": False, "gate_activation": "gelu"}}}},
    "vim": {"ssm": {"type": "mamba1", "bidirectional": "v2", "divide_out": True}},
    "zonos": ZONOS,
    "mamba2attn": MAMBA2ATTN,
}
SIZES = {"small": (256, 4, 2, 512, "float32"), "large": (384, 5, 1, 768, "bfloat16")}


def spec_of(backbone, d_model=256, n_layer=4, **ends):
    """A spec of a stack with this width and depth."""
    order = {"pattern": f"m*{n_layer}"} if "blocks" in backbone else {"n_layer": n_layer}
    return hg.ModelSpec.model_validate({"backbone": {"d_model": d_model, **order, **backbone}, **ends})


def worked_out(spec, length, batch, dtype, checkpointing="none"):
    """Bytes beside weights, gradients and optimiser."""
    length = None if spec.input.type == "patches" else length
    memory = hg.cost(spec, length, batch, dtype=dtype, checkpointing=checkpointing).memory
    return memory.activations + memory.logits


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stack", STACKS)
def test_activations_are_what_a_step_holds(stack, size, checkpointing: Checkpointing):
    """Within a tenth for stacks of one kind and mixed ones; most are within two hundredths."""
    d_model, n_layer, batch, length, dtype = SIZES[size]
    spec = spec_of(STACKS[stack], d_model, n_layer)
    model = hg.build(spec, dtype=getattr(torch, dtype))
    checkpoint_layers(model, checkpointing)
    found = worked_out(spec, length, batch, dtype, checkpointing)
    assert found == pytest.approx(training_peak(model, batch, length), rel=0.05)


def attending(**changes):
    """A stack of attention layers with settings of their own, and those of the stack under `stack`."""
    stack = changes.pop("stack", {})
    return {"attn_layer_idx": "all", "attn": {"num_heads": 8, "num_heads_kv": 2, **changes}, **stack}


IMAGE = {
    "input": {"type": "patches", "image_size": 176, "patch_size": 8, "cls_token": "middle"},
    "head": {"type": "classifier", "num_classes": 10},
}
LM = {"input": {"type": "tokens", "vocab_size": 8192}, "head": {"type": "lm"}}
UNTIED = {
    "input": {"type": "tokens", "vocab_size": 8192, "memory_tokens": 16, "embed_scale": 2.0},
    "head": {"type": "lm", "tie_embeddings": False, "logit_softcap": 30.0, "logit_scale": 0.5},
}
CODES = {"input": {"type": "codebooks", "n_codebooks": 4, "vocab_size": 1026}, "head": {"type": "codebooks"}}
MAMBA1, MAMBA2 = {"ssm": {"type": "mamba1"}}, {"ssm": {"type": "mamba2"}}
DETAILS = {
    "window": (attending(window=128), {}),
    "not causal": (attending(causal=False), {}),
    "norms of queries, gate": (attending(qk_norm="head", output_gate="elementwise"), {}),
    "parallel mlp": (attending(mlp_dim=512), {}),
    "scores": (attending(alibi=True, logit_softcap=30.0, sink=True), {}),
    "dropout": (attending(dropout=0.1), {}),
    "window, dropout": (attending(window=128, dropout=0.1), {}),
    "scores, dropout": (attending(alibi=True, logit_softcap=30.0, dropout=0.1), {}),
    "selective": (attending(selective=True), {}),
    "selective dropout": (attending(selective=True, dropout=0.1), {}),
    "accumulated selection": (attending(selective=True, selection_from="accumulate"), {}),
    "budget": (attending(selective=True, context_budget=128), {}),
    "products": (attending(stack={"residual_attn": {"training": "products"}}), {}),
    "table": (attending(stack={"residual_attn": {"training": "table"}}), {}),
    "upstream": (attending(stack={"residual_attn": {"carry": "upstream"}}), {}),
    "value residual": (attending(stack={"value_residual": "learned"}), {}),
    "post": (attending(stack={"norm_placement": "post"}), {}),
    "sandwich": (attending(stack={"norm_placement": "sandwich", "residual_in_fp32": False}), {}),
    "residual": (attending(stack={"norm_placement": "residual"}), {}),
    "pairs": (MAMBA1 | {"bidirectional": "layers", "bidirectional_merge": "mean"}, {}),
    "mamba1 norms": ({"ssm": {"type": "mamba1", "bcdt_norm": "learned", "layer_scale": 0.1}}, {}),
    "mamba2 mlp": ({"ssm": {"type": "mamba2", "rmsnorm": False, "d_ssm": 256, "ngroups": 2}}, {}),
    "mamba2 v1": ({"ssm": {"type": "mamba2", "bidirectional": "v1"}}, {}),
    "plainmamba": ({"ssm": {"type": "mamba1", "scan": "plainmamba", "scan_share": ["conv", "proj"]}}, IMAGE),
    "vmamba": ({"ssm": {"type": "mamba1", "scan": "vmamba", "scan_share": ["conv"]}, "drop_path": 0.1}, IMAGE),
    "tied head": (MAMBA1, LM),
    "untied head": (MAMBA2, UNTIED),
    "codes": (MAMBA2, CODES),
}


@pytest.mark.parametrize("detail", DETAILS)
def test_every_detail_of_a_stack_is_in_the_activations(detail):
    """Within a tenth, whatever the layers and the ends of the model do."""
    backbone, ends = DETAILS[detail]
    spec = spec_of(backbone, n_layer=3 if detail != "pairs" else 4, **ends)
    model = hg.build(spec)
    assert worked_out(spec, 512, 1, "float32") == pytest.approx(training_peak(model, 1, 512), rel=0.10)


MIXED = {
    "d_intermediate": 800,
    "attn_layer_idx": [2],
    "ssm": {"type": "mamba2", "bidirectional": "v1"},
    "attn": {"num_heads": 8, "rotary_emb_dim": 16},
    "norm_placement": "post",
    "residual_in_fp32": False,
}
CHECKPOINTED = {
    "dropout": (attending(dropout=0.1), "selective", "float32"),
    "upstream": (attending(stack={"residual_attn": {"carry": "upstream"}}), "selective", "bfloat16"),
    "post, mixed, selective": (MIXED, "selective", "bfloat16"),
    "post, mixed, full": (MIXED, "full", "bfloat16"),
}


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_what_layers_keep_is_told_from_what_they_compute_again(name):
    """Products inside dense attention are kept, casts die with their function: each was once missed by 20 %."""
    backbone, checkpointing, dtype = CHECKPOINTED[name]
    spec = spec_of(backbone, n_layer=3)
    model = hg.build(spec, dtype=getattr(torch, dtype))
    checkpoint_layers(model, checkpointing)
    found = worked_out(spec, 512, 1, dtype, checkpointing)
    assert found == pytest.approx(training_peak(model, 1, 512), rel=0.06)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("stack", ["mamba1", "mamba2", "vim", "zonos"])
def test_weights_take_what_the_parameters_take(stack, dtype):
    """A, D and the bias of dt are float32 in a bfloat16 model, and their bytes are exact."""
    spec = spec_of(STACKS[stack], **(LM if stack != "vim" else {}))
    model = hg.build(spec, dtype=getattr(torch, dtype), device="meta")
    weights = [one for _, one in model.named_parameters()]
    memory = hg.cost(spec, 128, dtype=dtype).memory
    assert memory.weights == memory.gradients == sum(one.numel() * one.itemsize for one in weights)
    moments = sum(2 * one.numel() * max(one.itemsize, 4) for one in weights)
    master = sum(one.numel() * 4 for one in weights if one.itemsize == 2)
    assert memory.optimizer == moments + master


def test_parts_keep_what_is_held_behind_the_forward_pass():
    """What the parts keep adds up to what autograd holds when the forward pass is over."""
    spec = spec_of(ZONOS, **LM)
    found = hg.cost(spec, 512, dtype="bfloat16")
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model = hg.build(spec, dtype=torch.bfloat16).train()
    ids = torch.randint(0, 8192, (1, 512))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(ids)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
    own = {one.untyped_storage().data_ptr() for one in [*model.parameters(), ids]}
    held = sum(size for place, size in kept.items() if place not in own) + logits.nbytes
    assert loss.requires_grad
    assert sum(part.activations for part in found.parts) == pytest.approx(held, rel=0.02)
    assert found.kinds["attention"].activations > found.kinds["norm"].activations > 0


def test_shards_divide_what_they_share():
    """Data shards share weights, gradients and optimiser; tensor shards share all."""
    spec = spec_of(ZONOS, **LM)
    whole = hg.cost(spec, 512).memory
    data, tensor = hg.cost(spec, 512, data_shards=8).memory, hg.cost(spec, 512, tensor_shards=4).memory
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(data, name) == -(-getattr(whole, name) // 8)
        assert getattr(tensor, name) == -(-getattr(whole, name) // 4)
    for shards in ({"data_shards": 7}, {"tensor_shards": 7}):  # rounded up on each device, not in the sum
        assert hg.cost(spec, 512, **shards).metrics()["weight_bytes"] == whole.weights
    assert (data.activations, data.logits) == (whole.activations, whole.logits)
    assert (tensor.activations, tensor.logits) == (-(-whole.activations // 4), -(-whole.logits // 4))


def test_logits_are_the_peak_where_the_vocabulary_is_large():
    """Logits, their logarithms and two gradients: four tables, in the dtype of the logits."""
    memory = hg.cost(spec_of(MAMBA1, input={"type": "tokens", "vocab_size": 65536}, head={"type": "lm"}), 512).memory
    assert memory.logits == 4 * 512 * 65536 * 2


def test_measured_peak_is_the_largest_moment():
    """The measuring itself: what is freed does not count, what was there does not either."""
    before = torch.zeros(1000)

    def call():
        first = torch.zeros(50_000)
        del first
        second, third = torch.zeros(30_000), torch.zeros(40_000) + before.sum()
        del second, third

    assert peak_bytes(call) == pytest.approx(4 * 110_000, rel=0.01)
