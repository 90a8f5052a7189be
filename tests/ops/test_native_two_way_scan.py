"""Both directions of a Vim mixer in one call, against two scans of the reference."""

import pytest
import torch
import torch.nn.functional as F

import hybridgen as hg
from hybridgen.errors import UnsupportedError
from hybridgen.ops import native
from hybridgen.ops.activations import ACTIVATIONS, activation
from hybridgen.ops.backends import use_backend
from hybridgen.ops.selective_scan import selective_scan
from hybridgen.ops.selective_scan.reference import selective_scan_reference
from hybridgen.ops.selective_scan.two_way import ScanDirection, selective_scan_two_way, two_way_refusal
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.skipif(not native.LOADED, reason="hybridgen's extension is not built")

# (batch, T, D, N, R): tails of vectors, states, chunks and of the four tokens that share a product; nothing at all.
SIZES = [
    (2, 130, 37, 5, 3),
    (1, 64, 32, 16, 12),
    (3, 67, 16, 1, 1),
    (1, 1, 70, 19, 2),
    (0, 5, 4, 2, 1),
    (2, 0, 4, 3, 1),
]
WIDE = {torch.float64: torch.float64}


def _direction(size, dtype, generator):
    """A direction as a mixer makes it: dt, B and C are parts of one projection, u half of one."""
    batch, T, D, N, R = size
    wide = WIDE.get(dtype, torch.float32)

    def rand(*shape, dtype=dtype):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    dt, B, C = rand(batch, T, R + 2 * N).split((R, N, N), dim=-1)
    u = rand(batch, T, 2 * D)[..., :D]
    bias, A_log, skip = rand(D, dtype=wide), rand(D, N, dtype=wide), rand(D, dtype=wide)
    return ScanDirection(u, dt, rand(D, R), bias, A_log, B, C, skip)


def _call(size, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    batch, T, D = size[:3]
    z = torch.randn(batch, T, 2 * D, generator=generator, dtype=torch.float64).to(dtype)[..., D:]
    return _direction(size, dtype, generator), _direction(size, dtype, generator), z


def _expected(there, back, z, gate_activation, scale, scan=selective_scan_reference, **options):
    total = 0
    for direction, reverse in ((there, False), (back, True)):
        u, dt, weight, bias, A_log, B, C, skip = (t.double() for t in direction)
        B, C = B[:, :, None], C[:, :, None]
        total += scan(u, F.linear(dt, weight), -A_log.exp(), B, C, skip, dt_bias=bias, reverse=reverse, **options)[0]
    return total * activation(gate_activation)(z.double()) * scale


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_two_scans_of_the_reference(size, dtype):
    there, back, z = _call(size, dtype)
    with torch.no_grad():
        y = selective_scan_two_way(there, back, z, "silu", 0.5)
    assert y.dtype == dtype
    assert y.shape == z.shape
    expected = _expected(there, back, z, "silu", 0.5)
    if dtype in WIDE or dtype == torch.float32:
        assert_close(y, expected.to(dtype))
    else:  # the first direction is rounded once before the second is added
        step = torch.finfo(dtype).eps * expected.abs().max().item() if y.numel() else 0.0
        torch.testing.assert_close(y.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=2 * step)


@pytest.mark.parametrize("gate_activation", ACTIVATIONS)
def test_any_gate(gate_activation):
    there, back, z = _call((2, 70, 20, 4, 2))
    y = selective_scan_two_way(there, back, z, gate_activation, 1.0)
    assert_close(y, _expected(there, back, z, gate_activation, 1.0).float())


def test_directions_of_different_sizes_of_state():
    there, _, z = _call((2, 70, 20, 4, 2))
    _, back, _ = _call((2, 70, 20, 7, 5))
    y = selective_scan_two_way(there, back, z, "gelu")
    assert_close(y, _expected(there, back, z, "gelu", 1.0).float())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_equal_bits_from_run_to_run_and_whatever_the_threads(threads):
    there, back, z = _call((1, 100, 100, 16, 6))
    before = torch.get_num_threads()
    first = selective_scan_two_way(there, back, z, "silu")
    try:
        torch.set_num_threads(threads)
        assert torch.equal(selective_scan_two_way(there, back, z, "silu"), first)
    finally:
        torch.set_num_threads(before)


def test_opcheck():
    there, back, z = _call((2, 70, 20, 4, 2))
    arguments = (list(there), list(back), z, native.activation_number("silu"), 0.5)
    torch.library.opcheck(native.OPS.selective_scan_two_way.default, arguments)


def test_a_gradient_is_refused():
    there, back, z = _call((1, 4, 8, 2, 1))
    arguments = (list(there), list(back), z.requires_grad_(), 0, 1.0)
    with pytest.raises(RuntimeError, match="scan each direction by itself"):
        native.OPS.selective_scan_two_way(*arguments).sum().backward()


def test_compiled_equals_eager(no_shape_checks):
    there, back, z = _call((1, 40, 16, 4, 2))

    def gated(there, back, z):
        return selective_scan_two_way(there, back, z * 2, "silu") + 1

    with torch.no_grad():
        compiled = torch.compile(gated, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(there, back, z), gated(there, back, z))


@pytest.mark.parametrize(
    ("field", "replacement"),
    [
        ("u", torch.zeros(1, 4, 9)),
        ("dt", torch.zeros(1, 5, 1)),
        ("dt_weight", torch.zeros(8, 2)),
        ("dt_bias", torch.zeros(7)),
        ("A_log", torch.zeros(8, 300)),
        ("B", torch.zeros(1, 4, 3)),
        ("C", torch.zeros(1, 4, 2, dtype=torch.bfloat16)),
        ("D", torch.zeros(8, dtype=torch.float64)),
    ],
)
def test_wrong_calls_of_the_operator_are_named(field, replacement):
    there, back, z = _call((1, 4, 8, 2, 1))
    wrong = back._replace(**{field: replacement})
    with pytest.raises(RuntimeError, match=f"selective_scan_two_way: {field} must"):
        native.OPS.selective_scan_two_way(list(there), list(wrong), z, 0, 1.0)
    with pytest.raises(RuntimeError, match="each direction is u, dt"):
        native.OPS.selective_scan_two_way(list(there)[1:], list(back), z, 0, 1.0)


def test_an_unknown_gate_is_named():
    with pytest.raises(UnsupportedError, match="slu"):
        selective_scan_two_way(*_call((1, 4, 8, 2, 1)), "slu")


def test_refusals_are_named():
    there, back, z = _call((1, 4, 8, 2, 1))
    weights, parameters = [there.dt_weight, back.dt_weight], [there.A_log, there.D, there.dt_bias]
    assert "gradient" in str(two_way_refusal(z, weights, parameters))
    with torch.no_grad():
        assert two_way_refusal(z, weights, parameters) is None
        assert "A_log, D" in str(two_way_refusal(z, weights, [there.A_log.double()]))
        assert "weights of dt" in str(two_way_refusal(z, [there.dt_weight.bfloat16()], parameters))
        assert "256" in str(two_way_refusal(z, weights, [torch.zeros(8, 300)]))
        assert "int64" in str(two_way_refusal(z.long(), weights, parameters))
        with use_backend("torch"):
            assert "extension" in str(two_way_refusal(z, weights, parameters))


@pytest.mark.parametrize("kind", ["v1", "v2"])
@pytest.mark.parametrize("bcdt_norm", ["none", "learned"])
def test_a_mixer_gives_with_it_what_it_gives_without(kind, bcdt_norm, monkeypatch):
    """The single call runs without gradients; with them the mixer scans each direction by itself."""
    ssm = {"type": "mamba1", "d_state": 4, "bidirectional": kind, "gate_activation": "gelu", "bcdt_norm": bcdt_norm}
    document = {"backbone": {"d_model": 16, "n_layer": 1, "ssm": ssm}}
    mixer = hg.build(hg.ModelSpec.model_validate(document), seed=0).backbone.layers[0].mixer
    with torch.no_grad():
        for p in mixer.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())), alpha=0.1)
    calls = []
    path = "hybridgen.layers.mixers.scans_mamba1.selective_scan_two_way"
    monkeypatch.setattr(path, lambda *given: calls.append(1) or selective_scan_two_way(*given))
    x = torch.randn(2, 70, 16, generator=torch.Generator().manual_seed(1))
    expected = mixer(x)
    assert not calls
    with torch.no_grad():
        assert_close(mixer(x), expected)
    assert len(calls) == 1


def test_slow_decays_do_not_drift():
    """Where every decay is nearly 1, an exponential that is always a little low adds up over the tokens."""
    generator = torch.Generator().manual_seed(1)
    T, D, N = 20000, 16, 16
    u, A = torch.rand(1, T, D, generator=generator), -0.1 * torch.rand(D, N, generator=generator)
    B, C = torch.rand(2, 1, T, 1, N, generator=generator)
    given = (u, torch.full((1, T, D), -9.0), A, B, C)
    y = selective_scan(*given, backend="native")[0]
    expected = selective_scan(*(t.double() for t in given), backend="torch")[0]
    assert ((y - expected).abs().max() / expected.abs().max()).item() < 2.5e-4
