"""Mixers of several directions: upstream's results, activations, scans over images, symmetry, names, starts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import hybridgen as hg
from hybridgen.layers.mixers import make_mixer
from hybridgen.layers.mixers.directions import NonCausal
from hybridgen.layers.span import Grid, Span
from hybridgen.model.init import parameter_generator
from hybridgen.ops.activations import ACTIVATIONS
from hybridgen.ops.backends import use_backend
from hybridgen.spec.mamba import Mamba1Spec, Mamba2Spec
from hybridgen.spec.parts import StackSettings
from tests.helpers.naive_scans import NAIVE_SCANS, row_paths

GOLDEN = sorted((Path(__file__).parent.parent / "golden" / "vim").glob("mixer_*.safetensors"))
D_MODEL = 12
SMALL = {"mamba1": {"d_state": 4}, "mamba2": {"d_state": 4, "headdim": 4, "ngroups": 2, "chunk_size": 16}}
KINDS = pytest.mark.parametrize("kind", SMALL)
TIGHT = {"rtol": 1e-10, "atol": 1e-11}
# Rows and columns of an image, its class tokens, and the places of the tokens in each order, by hand.
IMAGE = Grid(3, 2, (3,))
PATHS = {
    "row": [0, 1, 2, 3, 4, 5, 6],
    "column": [0, 2, 5, 3, 1, 4, 6],
    "zigzag": [0, 1, 4, 3, 2, 5, 6],
    "zigzag_column": [0, 2, 5, 3, 6, 4, 1],
}
PATHS |= {f"{name}_reverse": path[::-1] for name, path in PATHS.items()}
CROSS = {
    "vmamba": {"scan": "vmamba", "scan_share": ["conv"]},
    "plainmamba": {"scan": "plainmamba", "scan_share": ["conv", "proj", "A", "D"], "divide_out": True},
    "own-everything": {"scan": ["zigzag_reverse", "column", "row_reverse", "column_reverse", "row"]},
}


def make(kind, dtype=torch.float64, seed=0, **fields):
    """Makes a mixer whose weights are all moved off their starting values."""
    spec = {"mamba1": Mamba1Spec, "mamba2": Mamba2Spec}[kind].model_validate({"type": kind, **SMALL[kind], **fields})
    mixer = make_mixer(spec, StackSettings(d_model=D_MODEL), is_first=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            owner, _, last = name.rpartition(".")
            start = mixer.get_submodule(owner).initial_value(last, parameter_generator(seed, name))
            parameter.copy_(start + 0.1 * torch.randn(parameter.shape, generator=generator))
    return mixer.to(dtype)


def tokens(length, batch=2, seed=1, dtype=torch.float64):
    return torch.randn(batch, length, D_MODEL, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_outputs_and_gradients(path, each_backend):
    with safe_open(path, "pt") as file:
        case, tensors = json.loads(file.metadata()["case"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    config = case["config"]
    spec = Mamba1Spec(
        type="mamba1",
        d_state=config["d_state"],
        bidirectional=config["bimamba_type"],
        divide_out=config.get("if_divide_out", False),
        bias=config.get("bias", False),
        gate_activation=case["gate_activation"],
    )
    mixer = make_mixer(spec, StackSettings(d_model=config["d_model"]), is_first=False)
    weights = {key.removeprefix("param."): value for key, value in tensors.items() if key.startswith("param.")}
    mixer.load_state_dict(weights, strict=True)
    x = tensors["input"].requires_grad_()
    y = mixer(x)
    assert (y - tensors["output"]).abs().max() < 1e-5
    y.backward(tensors["grad_output"])
    found = {"input": x.grad, **{name: parameter.grad for name, parameter in mixer.named_parameters()}}
    gradients = {key.removeprefix("grad."): value for key, value in tensors.items() if key.startswith("grad.")}
    assert found.keys() == gradients.keys()
    for name, expected in gradients.items():
        assert (found[name] - expected).abs().max() < 1e-4 * expected.abs().max(), name


def test_there_are_six_golden_cases():
    assert len(GOLDEN) == 6


@pytest.mark.parametrize("length", [1, 2, 5, 67])
@pytest.mark.parametrize("fields", [{"bidirectional": "v1"}, {"bidirectional": "v2"}], ids=["v1", "v2"])
def test_the_formulas_with_flips_spelt_out(fields, length, each_backend):
    """Facts of Vim: W_out[(S(u; A, D) + flip S(flip u; A_b, D_b)) * silu(z)], with u = silu(conv(x)) once in v1."""
    mixer = make("mamba1", **fields)
    x = tokens(length)
    values, z = mixer.in_proj(x).chunk(2, dim=-1)
    d_inner, w = values.shape[-1], dict(mixer.named_parameters())
    own = "_b" if fields["bidirectional"] == "v2" else ""

    def scanned(inputs, A_log, D, suffix):
        u = torch.nn.functional.silu(inputs)
        dt, B, C = (u @ w[f"x_proj{suffix}.weight"].T).split((1, 4, 4), dim=-1)
        dt = torch.nn.functional.softplus(dt @ w[f"dt_proj{suffix}.weight"].T + w[f"dt_proj{suffix}.bias"])
        h, out = torch.zeros(2, d_inner, 4, dtype=x.dtype), []
        for t in range(length):
            decay = torch.exp(dt[:, t, :, None] * -A_log.exp())
            h = decay * h + (dt[:, t] * u[:, t])[:, :, None] * B[:, t, None]
            out.append((h * C[:, t, None]).sum(-1) + D * u[:, t])
        return torch.stack(out, dim=1)

    def convolved(inputs, name):
        padded = torch.nn.functional.pad(inputs.mT, (3, 0))
        return torch.nn.functional.conv1d(padded, w[f"{name}.weight"], w[f"{name}.bias"], groups=d_inner).mT

    there = scanned(convolved(values, "conv1d"), w["A_log"], w["D"], "")
    turned = convolved(values.flip(1), "conv1d_b") if own else convolved(values, "conv1d").flip(1)
    back = scanned(turned, w["A_b_log"], w[f"D{own}"], own)
    expected = (there + back.flip(1)) * torch.nn.functional.silu(z) @ w["out_proj.weight"].T
    torch.testing.assert_close(mixer(x), expected, **TIGHT)


@KINDS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_gate_activation_with_the_same_weights(kind, activation, each_backend):
    mixer = make(kind, bidirectional="v2", divide_out=True, gate_activation=activation)
    mixer.load_state_dict(make(kind, bidirectional="v2", divide_out=True).state_dict())
    x = tokens(9)
    expected = torch.stack([NAIVE_SCANS[kind](mixer, row, row_paths(mixer, 9)) for row in x])
    torch.testing.assert_close(mixer(x), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_convolution_activation_with_the_same_weights(activation, each_backend):
    mixer = make("mamba1", bidirectional="v1", conv_activation=activation)
    mixer.load_state_dict(make("mamba1", bidirectional="v1").state_dict())
    x = tokens(9)
    expected = torch.stack([NAIVE_SCANS["mamba1"](mixer, row, row_paths(mixer, 9)) for row in x])
    torch.testing.assert_close(mixer(x), expected, rtol=1e-7, atol=1e-8)


@KINDS
@pytest.mark.parametrize("case", CROSS)
def test_scans_over_an_image(kind, case, each_backend):
    mixer, x = make(kind, **CROSS[case]), tokens(7).requires_grad_()
    paths = [PATHS[order] for order in mixer.spec.directions()]
    expected = torch.stack([NAIVE_SCANS[kind](mixer, row, paths) for row in x])
    y = mixer(x, None, Span(0, 7, x.device, grid=IMAGE))
    torch.testing.assert_close(y, expected, **TIGHT)
    weights, cotangent = [x, *mixer.parameters()], tokens(7, seed=2)
    pairs = zip(
        torch.autograd.grad(y, weights, cotangent), torch.autograd.grad(expected, weights, cotangent), strict=True
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


@KINDS
def test_an_image_order_without_an_image_is_refused(kind):
    mixer, x = make(kind, scan="vmamba"), tokens(6)
    with pytest.raises(hg.ShapeError, match="scan order column needs the tokens of an image"):
        mixer(x)
    starts = torch.tensor([[0, 0, 0, 3, 3, 3]] * 2)
    with pytest.raises(hg.ShapeError, match="without padding or packing"):
        mixer(x, None, Span(0, 6, x.device, starts, grid=Grid(3, 2)))


def mirror(mixer):
    """Gives the second direction the weights of the first."""
    weights = mixer.state_dict()
    for name in list(weights):
        if "_b_" in name or "_b." in name or name.endswith("_b"):
            stem = name.replace("_b_log", "_log").replace("_b.", ".")
            weights[name] = weights[stem.removesuffix("_b")]
    mixer.load_state_dict(weights)
    return mixer


@KINDS
@pytest.mark.parametrize("length", [1, 2, 5, 67])
@torch.no_grad()
def test_v2_with_mirrored_weights_is_flip_equivariant_and_v1_is_not(kind, length, each_backend):
    x = tokens(length)
    mixer = mirror(make(kind, bidirectional="v2"))
    assert (mixer(x.flip(1)) - mixer(x).flip(1)).abs().max() < 1e-12
    causal_conv = mirror(make(kind, bidirectional="v1"))
    if length > 1:
        assert (causal_conv(x.flip(1)) - causal_conv(x).flip(1)).abs().max() > 1e-3


@KINDS
@torch.no_grad()
def test_both_ways_of_computing_the_directions_agree_in_all_dtypes(kind):
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        mixer, x = make(kind, dtype, bidirectional="v2", divide_out=True), tokens(33, dtype=dtype)
        outputs = {}
        for name in ("native", "torch"):
            with use_backend(name):
                outputs[name] = mixer(x)
        assert outputs["native"].dtype == dtype
        assert (outputs["native"] - outputs["torch"]).float().abs().max() < bound


@KINDS
@pytest.mark.parametrize("fields", [{"bidirectional": "v2"}, CROSS["vmamba"]], ids=["v2", "vmamba"])
def test_gradcheck(kind, fields, each_backend):
    mixer, x = make(kind, **fields), tokens(5, batch=1)[:, :4].requires_grad_()
    weights = dict(mixer.named_parameters())
    span = Span(0, 4, x.device, grid=Grid(2, 2))

    def call(x, *values):
        names = dict(zip(weights, values, strict=True))
        return torch.func.functional_call(mixer, names, (x, None, span))

    inputs = (x, *(value.detach().clone().requires_grad_() for value in weights.values()))
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)


def suffixed(mixer):
    return {name for name, _ in mixer.named_parameters() if any(f"_{letter}" in name for letter in "bcdefgh")}


def test_names_of_the_parameters():
    v2 = {"A_b_log", "D_b", "conv1d_b.weight", "conv1d_b.bias", "x_proj_b.weight", "dt_proj_b.weight", "dt_proj_b.bias"}
    assert suffixed(make("mamba1", bidirectional="v1")) == {"A_b_log"}
    assert suffixed(make("mamba1", bidirectional="v2")) == v2
    assert suffixed(make("mamba1", scan="vim")) == v2
    assert suffixed(make("mamba1", **CROSS["plainmamba"])) == set()
    assert {n for n in suffixed(make("mamba1", **CROSS["vmamba"])) if "_d" in n.replace("_dt", "")} == {
        "A_d_log", "D_d", "x_proj_d.weight", "dt_proj_d.weight", "dt_proj_d.bias",
    }  # fmt: skip
    plain = {name for name, _ in make("mamba2").named_parameters()}
    more = {name for name, _ in make("mamba2", bidirectional="v2").named_parameters()} - plain
    assert more == {"A_b_log", "D_b", "dt_bias_b", "conv1d_b.weight", "conv1d_b.bias"}
    assert {name for name, _ in make("mamba2", bidirectional="v1").named_parameters()} - plain == {"A_b_log"}


@KINDS
def test_what_decides_dt_and_decay_stays_in_float32(kind):
    mixer = {"type": kind, **SMALL[kind], "scan": "vim", "layer_scale": 0.1}
    stack = {"d_model": D_MODEL, "blocks": {"x": {"mixer": mixer}}, "pattern": "x"}
    model = hg.build(hg.ModelSpec.model_validate({"backbone": stack}), dtype="bfloat16")
    wide = {name for name, p in model.backbone.layers[0].mixer.named_parameters() if p.dtype == torch.float32}
    dt = "dt_proj{}.bias" if kind == "mamba1" else "dt_bias{}"
    assert wide == {"A_log", "A_b_log", "D", "D_b", dt.format(""), dt.format("_b")}


def start(mixer, name):
    owner, _, last = name.rpartition(".")
    return mixer.get_submodule(owner).initial_value(last, parameter_generator(3, name))


def test_starting_values():
    upstream, same = make("mamba1", bidirectional="v2"), make(
        "mamba1", bidirectional="v2", backward_dt_init="same_as_forward", layer_scale=0.25
    )  # fmt: skip
    assert torch.equal(start(upstream, "A_b_log"), start(upstream, "A_log"))
    assert torch.equal(start(upstream, "D_b"), torch.ones(24))
    assert torch.equal(start(upstream, "dt_proj_b.bias"), torch.zeros(24))
    weight = start(upstream, "dt_proj_b.weight")
    assert weight.abs().max() <= 1.0  # dt_rank^-0.5 of rank 1
    assert weight.std() > 0.4
    assert torch.equal(start(same, "gamma"), torch.full((D_MODEL,), 0.25))
    for name, mixer in (("dt_proj_b.bias", same), ("dt_proj.bias", same), ("dt_proj.bias", upstream)):
        dt = torch.nn.functional.softplus(start(mixer, name))
        assert dt.min() > 0.9e-3
        assert dt.max() < 0.11
    scans = make("mamba2", bidirectional="v2")
    assert not torch.equal(start(scans, "A_b_log"), start(scans, "A_log"))
    assert ((start(scans, "A_b_log").exp() >= 1) & (start(scans, "A_b_log").exp() <= 16)).all()
    assert torch.nn.functional.softplus(start(scans, "dt_bias_b")).max() < 0.11


@KINDS
def test_the_plain_classes_serve_the_plain_order(kind):
    assert not isinstance(make(kind), NonCausal)
    assert not isinstance(make(kind, scan=["row"]), NonCausal)
    assert make(kind, scan=["row"]).is_causal
    for fields in ({"bidirectional": "v1"}, {"scan": ["row_reverse"]}, {"scan": ["column"]}):
        assert not make(kind, **fields).is_causal
