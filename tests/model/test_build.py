"""Building: starting values depend on seed and name alone; meta, dtypes, tying, shapes of calls."""

import math
import pickle

import pytest
import torch

import hybridgen as hg
from hybridgen.model.init import materialise
from tests.helpers.mixer_cases import CASES, make

TOKENS = {
    "input": {"type": "tokens", "vocab_size": 61},
    "backbone": {
        "d_model": 64,
        "n_layer": 4,
        "attn_layer_idx": [1],
        "ssm": {"type": "mamba2", "d_state": 16, "headdim": 16},
        "attn": {"num_heads": 4},
        "attn_mlp_d_intermediate": 128,
    },
    "head": {"type": "lm"},
}


def build(document, **kwargs):
    return hg.build(hg.ModelSpec.model_validate(document), **kwargs)


@pytest.mark.parametrize("case", CASES)
def test_same_seed_same_bits_and_every_parameter_starts(case):
    spec = hg.ModelSpec.model_validate(CASES[case])
    first, again, other = hg.build(spec, seed=5), hg.build(spec, seed=5), hg.build(spec, seed=6)
    for (name, a), b in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.isfinite().all(), name
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_values_depend_on_the_name_only():
    longer = {**TOKENS, "backbone": {**TOKENS["backbone"], "n_layer": 6, "init": {"rescale_prenorm_residual": False}}}
    shorter = {**TOKENS, "backbone": {**TOKENS["backbone"], "init": {"rescale_prenorm_residual": False}}}
    a, b = build(shorter).state_dict(), build(longer).state_dict()
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_meta_then_materialise_equals_build():
    spec = hg.ModelSpec.model_validate(TOKENS)
    model = hg.build(spec, device="meta", dtype="bfloat16")
    assert all(parameter.is_meta for parameter in model.parameters())
    calls = []
    materialise(model, "cpu", torch.bfloat16, seed=3, progress=lambda done, total: calls.append((done, total)))
    expected = hg.build(spec, dtype="bfloat16", seed=3)
    for (name, a), b in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name
    assert model.lm_head.weight is model.backbone.embedding.weight
    assert calls[-1][0] == calls[-1][1] == len(list(model.parameters()))


def test_float32_islands():
    model = build(TOKENS, dtype="bfloat16")
    wide = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.dtype == torch.float32}
    assert wide == {"A_log", "D", "dt_bias"}
    first = build({"backbone": {"d_model": 64, "n_layer": 1}}, dtype="bfloat16")
    wide = {name for name, p in first.backbone.layers[0].mixer.named_parameters() if p.dtype == torch.float32}
    assert wide == {"A_log", "D", "dt_proj.bias"}
    assert {p.dtype for p in build(TOKENS, dtype="float64").parameters()} == {torch.float64}
    meta = build(TOKENS, device="meta", dtype="bfloat16")
    assert [p.dtype for p in meta.parameters()] == [p.dtype for p in model.parameters()]


def test_distributions():
    model = build({**TOKENS, "backbone": {**TOKENS["backbone"], "d_model": 512}}, seed=1)
    layer, attention = model.backbone.layers[0], model.backbone.layers[1]
    assert model.backbone.embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
    bound = 1 / math.sqrt(512)
    weight = layer.mixer.in_proj.weight
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    # Five branches: four mixers and one MLP.
    out = attention.mlp.fc2.weight
    assert out.std().item() == pytest.approx(1 / math.sqrt(128) / math.sqrt(3) / math.sqrt(5), rel=0.02)
    A = layer.mixer.A_log.exp()
    assert A.min() >= 1
    assert A.max() <= 16
    dt = torch.nn.functional.softplus(layer.mixer.dt_bias)
    assert dt.min() >= 0.000999
    assert dt.max() <= 0.1001
    assert not attention.mixer.in_proj.bias.any()


def test_mamba1_starting_values():
    ssm = {"type": "mamba1", "dt_rank": 4, "dt_min": 0.01, "dt_max": 0.02, "dt_init": "constant", "dt_scale": 2.0}
    mixer = build({"backbone": {"d_model": 64, "n_layer": 1, "ssm": ssm}}).backbone.layers[0].mixer
    torch.testing.assert_close(mixer.A_log.exp(), torch.arange(1.0, 17).expand(128, 16))
    assert (mixer.D == 1).all()
    assert (mixer.dt_proj.weight == 1.0).all()
    dt = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert dt.min() > 0.00999
    assert dt.max() < 0.02001


def test_tied_head_is_one_parameter():
    tied = build(TOKENS)
    assert tied.lm_head.weight is tied.backbone.embedding.weight
    assert tied.tied_weights() == {"lm_head.weight": "backbone.embedding.weight"}
    free = build({**TOKENS, "head": {"type": "lm", "tie_embeddings": False, "bias": True}})
    assert free.tied_weights() == {}
    extra = 64 * 64 + 64
    count = sum(p.numel() for p in free.parameters()) - sum(p.numel() for p in tied.parameters())
    assert count == extra


def test_loading_with_assign_keeps_the_tie():
    model = build(TOKENS, device="meta")
    model.load_state_dict(build(TOKENS, seed=4).state_dict(), assign=True)
    assert model.lm_head.weight is model.backbone.embedding.weight


def test_logits_scale_then_softcap():
    plain = build(TOKENS)
    capped = build({**TOKENS, "head": {"type": "lm", "logit_scale": 3.0, "logit_softcap": 0.5}})
    ids = torch.arange(10)[None]
    torch.testing.assert_close(capped(ids), 0.5 * torch.tanh(3.0 * plain(ids) / 0.5))


def test_embed_scale():
    scaled = build({**TOKENS, "input": {**TOKENS["input"], "embed_scale": 4.0}})
    ids = torch.arange(10)[None]
    hidden = build({"backbone": TOKENS["backbone"]})
    rows = scaled.backbone.embedding.weight[ids]
    torch.testing.assert_close(scaled.backbone.embedding(ids), 4.0 * rows)
    torch.testing.assert_close(hg.base_model(scaled)(ids), hidden(scaled.backbone.embedding(ids)))


def test_last_tokens_only():
    model = build(TOKENS)
    ids = torch.arange(10)[None]
    torch.testing.assert_close(model(ids, num_last_tokens=3), model(ids)[:, -3:])


def test_residual_in_fp32_keeps_small_contributions():
    document = {"backbone": {"d_model": 16, "blocks": {"f": {"mlp": {"d_intermediate": 128}}}, "pattern": "f*40"}}
    errors = {}
    for in_fp32 in (True, False):
        document["backbone"]["residual_in_fp32"] = in_fp32
        small = build(document, dtype="bfloat16")
        exact = build(document, dtype="float64")
        exact.load_state_dict({name: value.double() for name, value in small.state_dict().items()})
        x = 30 * torch.randn(1, 50, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
        errors[in_fp32] = (small(x).double() - exact(x.double())).abs().mean()
    assert errors[True] < 0.7 * errors[False]


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("bias", [True, False, None])
def test_norms_have_a_bias_if_told_to(kind, bias):
    backbone = build({"backbone": {**TOKENS["backbone"], "norm": {"type": kind, "bias": bias}}}).backbone
    has_bias = kind == "layer" if bias is None else bias
    assert {norm.bias is not None for norm in (backbone.norm_f, backbone.layers[0].norm)} == {has_bias}
    assert backbone(torch.randn(1, 4, 64)).isfinite().all()


@pytest.mark.parametrize(("bias", "out_bias"), [(True, False), (False, True), (True, None), (False, None)])
def test_the_last_map_of_an_mlp_can_differ_in_its_bias(bias, out_bias):
    mlp = {"d_intermediate": 32, "bias": bias, "out_bias": out_bias}
    layer = build({"backbone": {"d_model": 16, "blocks": {"f": {"mlp": mlp}}, "pattern": "f"}}).backbone.layers[0]
    assert (layer.mlp.fc1.bias is not None) is bias
    assert (layer.mlp.fc2.bias is not None) is (bias if out_bias is None else out_bias)


def test_norms_on_the_residual_sum():
    """`x = norm(x + f(x))` for each branch; the last norm is that of the stack."""
    blocks = {"a": {"mixer": {"type": "attention", "num_heads": 2}, "mlp": {"d_intermediate": 32}}}
    stack = {"d_model": 16, "blocks": blocks, "pattern": "a a", "norm_placement": "residual"}
    backbone = build({"backbone": stack}, dtype="float64").backbone
    assert backbone.layers[1].post_norm2 is None
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    expected = x
    for layer in backbone.layers:
        assert layer.norm is None
        assert layer.norm2 is None
        expected = layer.post_norm(expected + layer.mixer(expected))
        expected = (layer.post_norm2 or backbone.norm_f)(expected + layer.mlp(expected))
    torch.testing.assert_close(backbone(x), expected)


def test_zonos_final_norm_is_rms_with_a_bias():
    document = {"backbone": {**TOKENS["backbone"], "norm": {"type": "rms", "final_bias": True}}}
    backbone = build(document).backbone
    assert backbone.norm_f.bias is not None
    assert backbone.layers[0].norm.bias is None
    x = torch.randn(1, 4, 64)
    before = backbone(x)
    with torch.no_grad():
        backbone.norm_f.bias.fill_(2.0)
    torch.testing.assert_close(backbone(x), before + 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m(torch.zeros(1, 4, 64)), "must be token ids of shape"),
        (lambda m: m(torch.zeros(4, dtype=torch.long)), "must be token ids of shape"),
        (lambda m: m(torch.full((1, 4), 64)), "ids must be in 0 ... 63; given 64"),
        (lambda m: m(torch.full((1, 4), -1)), "given -1"),
        (lambda m: m(torch.zeros(2, 4, dtype=torch.long), state=m.init_state(3, 8)), "batch_size 3; the input has 2"),
        (lambda m: m(torch.zeros(1, 9, dtype=torch.long), state=m.init_state(1, 8)), "max_seqlen = 8"),
        (
            lambda m: m(torch.zeros(1, 3, dtype=torch.long), mask=torch.tensor([[True, False, True]])),
            "the real tokens of a row must stand together; row 0 has padding after a real token",
        ),
        (
            lambda m: m(
                torch.zeros(1, 2, dtype=torch.long), state=m.init_state(1, 8), mask=torch.tensor([[True, False]])
            ),
            "with a state, padding must stand on the left",
        ),
        (
            lambda m: m(torch.zeros(1, 2, dtype=torch.long), num_last_tokens=-1),
            "num_last_tokens must be 0",
        ),
        (
            lambda m: m(torch.zeros(1, 2, dtype=torch.long), mask=torch.ones(1, 3, dtype=torch.bool)),
            "mask must have the shape",
        ),
        (
            lambda m: m(
                torch.zeros(1, 1, dtype=torch.long),
                mask=torch.ones(1, 1, dtype=torch.bool),
                seq_idx=torch.zeros(1, 1, dtype=torch.long),
            ),
            "not both",
        ),
    ],
)
def test_calls_that_do_not_fit(call, words, no_shape_checks):
    with pytest.raises(hg.ShapeError, match=words):
        call(build(TOKENS))


def test_wrong_hidden_states_and_codes():
    model = build({"backbone": TOKENS["backbone"]})
    with pytest.raises(hg.ShapeError, match="hidden states of shape"):
        model(torch.zeros(1, 4, 63))
    codes = build({**TOKENS, "input": {"type": "codebooks", "n_codebooks": 3, "vocab_size": 9}, "head": "codebooks"})
    with pytest.raises(hg.ShapeError, match="transpose"):
        codes(torch.zeros(1, 3, 7, dtype=torch.long))


def test_non_causal_attention_sees_everything_and_has_no_state():
    stack = {"d_model": 32, "n_layer": 1, "attn_layer_idx": "all", "attn": {"num_heads": 4, "causal": False}}
    model = build({"backbone": stack}, dtype="float64")
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    torch.testing.assert_close(model(x.flip(1)).flip(1), model(x))
    changed = x.clone()
    changed[:, -1] += 1
    assert not torch.allclose(model(changed)[:, 0], model(x)[:, 0])
    seq_idx = torch.tensor([[0, 0, 0, 1, 1, 1, 1]] * 2)
    packed = torch.cat((model(x[:, :3]), model(x[:, 3:])), dim=1)
    torch.testing.assert_close(model(x, seq_idx=seq_idx), packed)
    with pytest.raises(hg.UnsupportedError, match="has no decoding state"):
        model.init_state(1, 8)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"dtype": "float8"}, "dtype must be one of float32, bfloat16, float16, float64; given 'float8'"),
        ({"dtype": torch.int32}, "given torch.int32"),
        ({"device": "gpu"}, "device must be a name such as cpu, cuda"),
        ({"device": "cuda:77"}, "is not there"),
        ({"device": "mps:1"}, "is not there"),
        ({"device": "xla"}, "is not there"),
        ({"device": None}, "device must be a name"),
    ],
)
def test_unknown_device_and_dtype(kwargs, words):
    with pytest.raises(hg.HybridgenError, match=words):
        build(TOKENS, **kwargs)


def test_base_model_of_anything():
    model = build(TOKENS)
    assert hg.base_model(model) is model.backbone
    plain = torch.nn.Linear(2, 2)
    assert hg.base_model(plain) is plain


@pytest.mark.parametrize("case", ["hybrid-pre-rms", "attention-everything"])
def test_padding_on_both_sides_without_a_state(case):
    model = make(case, "float64")
    x = torch.randn(1, 9, 32, dtype=torch.float64)
    mask = torch.tensor([[False, False, True, True, True, True, True, False, False]])
    torch.testing.assert_close(model(x, mask=mask)[:, 2:7], model(x[:, 2:7]))


def test_padding_of_a_non_causal_stack_may_stand_anywhere_around():
    stack = {"d_model": 32, "n_layer": 2, "attn_layer_idx": "all", "attn": {"num_heads": 4, "causal": False}}
    model = build({"backbone": stack}, dtype="float64")
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    mask = torch.tensor([[True] * 4 + [False] * 3, [False] * 2 + [True] * 5])
    y = model(x, mask=mask)
    torch.testing.assert_close(y[:1, :4], model(x[:1, :4]))
    torch.testing.assert_close(y[1:, 2:], model(x[1:, 2:]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mask": torch.zeros(1, 3)}, "mask must be a tensor of booleans"),
        ({"mask": [[True, True, True]]}, "mask must be a tensor"),
        ({"seq_idx": torch.zeros(1, 3)}, "seq_idx must hold integers"),
        ({"seq_idx": [[0, 0, 0]]}, "seq_idx must be a tensor"),
    ],
)
def test_masks_and_numbers_of_the_wrong_kind(arguments, words, no_shape_checks):
    with pytest.raises(hg.ShapeError, match=words):
        build(TOKENS)(torch.zeros(1, 3, dtype=torch.long), **arguments)


def test_inputs_of_the_wrong_kind(no_shape_checks):
    model = build(TOKENS)
    for wrong, words in (
        ([[1, 2]], "must be a tensor; given list"),
        (torch.zeros(1, 2, dtype=torch.uint8), "must be of torch.int64 or torch.int32"),
        (torch.zeros(1, 2, dtype=torch.long, device="meta"), "the input is on meta and the model on cpu"),
    ):
        with pytest.raises(hg.ShapeError, match=words):
            model(wrong)
    assert torch.equal(model(torch.ones(1, 2, dtype=torch.int32)), model(torch.ones(1, 2, dtype=torch.int64)))


def test_models_and_states_pickle():
    model = build(TOKENS)
    ids = torch.ones(1, 2, dtype=torch.long)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(ids), model(ids))
    assert again.lm_head.weight is again.backbone.embedding.weight
    state = model.init_state(1, 8)
    model(ids, state=state)
    restored = pickle.loads(pickle.dumps(state))
    assert torch.equal(model(ids, state=restored), model(ids, state=state))
    assert "length=4" in repr(state)


def test_build_takes_a_spec_and_a_whole_seed():
    with pytest.raises(hg.HybridgenError, match="build takes a ModelSpec; given dict"):
        hg.build(TOKENS)
    with pytest.raises(hg.HybridgenError, match="seed must be an integer"):
        build(TOKENS, seed="x")
    huge = {"backbone": {"d_model": 10**9, "n_layer": 1, "ssm": {"expand": 4}}}
    with pytest.raises(hg.HybridgenError, match="too large for any machine to address"):
        build(huge, device="meta")
