"""One token through a whole Mamba mixer in one call: the same numbers as the single calls, and only where it may."""

import pytest
import torch
from torch.nn.utils import parametrize, prune

from hybridgen.errors import BackendUnavailableError
from hybridgen.layers.mixers import mamba1, mamba2
from hybridgen.layers.mixers.mamba1 import Mamba1
from hybridgen.layers.mixers.mamba2 import Mamba2
from hybridgen.ops import backends, native
from hybridgen.ops.activations import ACTIVATIONS
from hybridgen.ops.backends import use_backend
from hybridgen.spec.mixers import Mamba1Spec, Mamba2Spec
from tests.helpers.fake_kernels import FakeKernels
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.skipif(not native.LOADED, reason="the extension is not built")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
D_MODEL = 24

MAMBA1 = {
    "plain": {},
    "biases": {"bias": True, "d_state": 5, "dt_rank": 3, "d_conv": 2},
    "no-biases": {"conv_bias": False, "d_state": 33, "d_conv": 1, "expand": 1.5},
    "wide": {"expand": 11, "d_conv": 7, "conv_activation": "gelu"},
}
MAMBA2 = {
    "plain": {"headdim": 16},
    "biases": {"headdim": 6, "d_state": 5, "bias": True, "ngroups": 4, "d_conv": 2},
    "gate-last": {"headdim": 8, "d_state": 300, "ngroups": 2, "norm_before_gate": True, "conv_bias": False},
    "no-norm": {"headdim": 12, "rmsnorm": False, "D_has_hdim": True, "d_conv": 1},
    "parallel-mlp": {"headdim": 9, "d_ssm": 27, "dt_limit": [0.01, 0.05], "D_has_hdim": True},
    "parallel-mlp-no-norm": {"headdim": 4, "d_ssm": 8, "rmsnorm": False, "dt_limit": [0.0, 0.02], "bias": True},
}
CASES = {f"mamba1-{name}": ("mamba1", fields) for name, fields in MAMBA1.items()}
CASES |= {f"mamba2-{name}": ("mamba2", fields) for name, fields in MAMBA2.items()}


def _mixer(kind, fields, dtype=torch.float32, d_model=D_MODEL):
    spec, make = {"mamba1": (Mamba1Spec, Mamba1), "mamba2": (Mamba2Spec, Mamba2)}[kind]
    mixer = make(spec(type=kind, **fields), d_model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in mixer.modules():
            wide = getattr(module, "float32_parameters", ())
            for name, parameter in module.named_parameters(recurse=False):
                value = module.initial_value(name, generator) + 0.1 * torch.randn(parameter.shape, generator=generator)
                parameter.data = value.to(torch.float32 if name in wide else dtype)
    return mixer.requires_grad_(False)


def _state(mixer, batch, dtype=torch.float32):
    state = mixer.init_state(batch, 1, dtype, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    for tensor in state.tensors().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return state


def _tokens(batch, dtype=torch.float32, d_model=D_MODEL):
    return torch.randn(batch, 1, d_model, generator=torch.Generator().manual_seed(2)).to(dtype)


class Spy:
    """Counts the calls of the fused step, and refuses them while `allowed` is false."""

    def __init__(self, monkeypatch):
        self.count, self.allowed = 0, True
        for layer, name in ((mamba1, "mamba1_step"), (mamba2, "mamba2_step")):
            monkeypatch.setattr(layer, name, self._counted(getattr(layer, name)))
            monkeypatch.setattr(layer, "refusal", self._asked(layer.refusal))

    def _counted(self, step):
        def call(*arguments):
            self.count += 1
            return step(*arguments)

        return call

    def _asked(self, refusal):
        return lambda *arguments: refusal(*arguments) if self.allowed else "the test says so"

    def both(self, mixer, x, state, other):
        """The result with and without the fused step, each from a state of its own."""
        before = self.count
        fused = mixer(x, state)
        assert self.count == before + 1
        self.allowed = False
        single = mixer(x, other)
        self.allowed = True
        assert self.count == before + 1
        return fused, single


@pytest.fixture
def spy(monkeypatch):
    with torch.no_grad():
        yield Spy(monkeypatch)


def _assert_fused_equals_single(spy, mixer, dtype, batch=2):
    fused, single = _state(mixer, batch, dtype), _state(mixer, batch, dtype)
    for _ in range(3):
        y, expected = spy.both(mixer, _tokens(batch, dtype, mixer.in_proj.in_features), fused, single)
        assert y.dtype == dtype
        assert_close(y, expected)
        assert torch.equal(fused.conv, single.conv)
        # Only exp(A_log) is another one.
        torch.testing.assert_close(fused.ssm, single.ssm, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_single_calls(case, dtype, spy):
    kind, fields = CASES[case]
    _assert_fused_equals_single(spy, _mixer(kind, fields, dtype), dtype)


@pytest.mark.parametrize("batch", [0, 1, 3, 5, 16])
@pytest.mark.parametrize("kind", ["mamba1", "mamba2"])
def test_any_number_of_rows(kind, batch, spy):
    _assert_fused_equals_single(spy, _mixer(kind, {"headdim": 16} if kind == "mamba2" else {}), torch.float32, batch)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation, spy):
    for kind, fields in (
        ("mamba1", {"conv_activation": activation}),
        ("mamba2", {"headdim": 16}),
        ("mamba2", {"headdim": 9, "d_ssm": 27, "norm_before_gate": True}),
        ("mamba2", {"headdim": 16, "rmsnorm": False}),
    ):
        mixer = _mixer(kind, {**fields, "gate_activation": activation}, torch.bfloat16)
        _assert_fused_equals_single(spy, mixer, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_single_calls_bit_for_bit_where_the_functions_are_the_same(dtype, spy):
    mixer = _mixer("mamba2", {"headdim": 9, "d_ssm": 27, "rmsnorm": False, "bias": True}, dtype)
    mixer.A_log.zero_()  # its exponential is 1 in every library
    fused, single = _state(mixer, 3, dtype), _state(mixer, 3, dtype)
    y, expected = spy.both(mixer, _tokens(3, dtype), fused, single)
    assert torch.equal(y, expected)
    assert torch.equal(fused.conv, single.conv)
    assert torch.equal(fused.ssm, single.ssm)


@pytest.mark.parametrize(("kind", "fields"), [("mamba1", {}), ("mamba2", {})])
def test_large_sizes_use_all_threads_and_do_not_depend_on_their_number(kind, fields, spy):
    mixer = _mixer(kind, fields, torch.bfloat16, d_model=320)
    _assert_fused_equals_single(spy, mixer, torch.bfloat16)
    x, threads, results = _tokens(2, torch.bfloat16, 320), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            state = _state(mixer, 2, torch.bfloat16)
            results.append((mixer(x, state), state.ssm))
    finally:
        torch.set_num_threads(threads)
    for y, ssm in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(ssm, results[0][1])


@pytest.mark.parametrize("kind", ["mamba1", "mamba2"])
def test_nan_stays_in_its_row(kind, spy):
    mixer, x = _mixer(kind, {"headdim": 16} if kind == "mamba2" else {}), _tokens(3)
    clean, _ = spy.both(mixer, x, _state(mixer, 3), _state(mixer, 3))
    x[1, 0, 3] = float("nan")
    y = mixer(x, _state(mixer, 3))
    assert y[1].isnan().all()
    assert torch.equal(y[::2], clean[::2])


@pytest.mark.parametrize("kind", ["mamba1", "mamba2"])
@pytest.mark.parametrize("name", ["in_proj", "x_proj", "out_proj", "norm"])
def test_hooks_on_submodules_are_honoured(kind, name, spy):
    mixer = _mixer(kind, {"headdim": 16} if kind == "mamba2" else {})
    if not hasattr(mixer, name):
        return
    part, x = getattr(mixer, name), _tokens(2)
    plain = mixer(x, _state(mixer, 2))
    assert spy.count == 1
    hooks = [
        lambda: part.register_forward_hook(lambda module, inputs, output: output * 2),
        lambda: part.register_forward_pre_hook(lambda module, inputs: tuple(i * -3 for i in inputs)),
    ]
    for register in hooks:
        handle = register()
        assert not torch.allclose(mixer(x, _state(mixer, 2)), plain)
        handle.remove()
    forward = part.forward
    part.forward = lambda *inputs: forward(*inputs) + 1
    assert not torch.allclose(mixer(x, _state(mixer, 2)), plain)
    del part.forward
    assert spy.count == 1
    assert torch.equal(mixer(x, _state(mixer, 2)), plain)
    assert spy.count == 2


@pytest.mark.parametrize("kind", ["mamba1", "mamba2"])
def test_global_hooks_are_honoured(kind, spy):
    mixer, seen = _mixer(kind, {"headdim": 16} if kind == "mamba2" else {}), []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(module))
    try:
        mixer(_tokens(2), _state(mixer, 2))
    finally:
        handle.remove()
    assert mixer.in_proj in seen
    assert spy.count == 0


class _Doubled(torch.nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize("kind", ["mamba1", "mamba2"])
@pytest.mark.parametrize("name", ["in_proj", "conv1d", "dt_proj"])
def test_parametrised_and_replaced_submodules_take_the_general_path(kind, name, spy):
    mixer, x = _mixer(kind, {"headdim": 16} if kind == "mamba2" else {}), _tokens(2)
    if not hasattr(mixer, name):
        return
    plain = mixer(x, _state(mixer, 2))
    parametrize.register_parametrization(getattr(mixer, name), "weight", _Doubled())
    assert not torch.allclose(mixer(x, _state(mixer, 2)), plain)
    mixer.out_proj = torch.nn.Sequential(mixer.out_proj)
    mixer(x, _state(mixer, 2))
    assert spy.count == 1


def test_pruned_weights_are_seen(spy):
    mixer, x = _mixer("mamba1", {}), _tokens(2)
    prune.random_unstructured(mixer.conv1d, "weight", 0.5)
    fused, expected = spy.both(mixer, x, _state(mixer, 2), _state(mixer, 2))
    assert_close(fused, expected)


@pytest.mark.parametrize("kind", ["mamba1", "mamba2"])
def test_it_is_left_out_where_it_may_not_be_taken(kind, spy, monkeypatch):
    fields = {"headdim": 16} if kind == "mamba2" else {}
    mixer, x = _mixer(kind, fields), _tokens(2)

    def takes(mixer, x, state=None):
        before = spy.count
        mixer(x, _state(mixer, x.shape[0], x.dtype) if state is None else state)
        return spy.count > before

    assert takes(mixer, x)
    with use_backend("native"):
        assert takes(mixer, x)
    with use_backend("torch"):
        assert not takes(mixer, x)
    with use_backend("mamba_ssm"), pytest.raises(BackendUnavailableError):
        takes(mixer, x)
    with torch.enable_grad():
        assert not takes(mixer, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not takes(mixer, x)
    assert not takes(mixer, _tokens(17))
    assert not takes(_mixer(kind, fields, torch.float64), x.double())
    assert not takes(mixer.bfloat16(), x.bfloat16())  # the scan's parameters too
    mixer = _mixer(kind, fields)
    state = _state(mixer, 2)
    state.ssm = state.ssm.transpose(0, 1).contiguous().transpose(0, 1)
    assert not takes(mixer, x, state)
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert not takes(mixer, x)
        patch.undo()
        patch.setattr(native, "LOADED", False)
        patch.setattr(native, "_MISSING", {"cpu": "it was not built"})
        patch.setattr(backends, "_warned", ["said already"])
        assert not takes(mixer, x)


def test_norms_of_dt_b_and_c_take_the_general_path(spy):
    for norm in ("weightless", "learned"):
        mixer = _mixer("mamba1", {"bcdt_norm": norm})
        mixer(_tokens(2), _state(mixer, 2))
    assert spy.count == 0


def test_kernels_of_mamba_ssm_come_first(spy, monkeypatch):
    FakeKernels(monkeypatch)
    mixer = _mixer("mamba2", {"headdim": 16})
    mixer(_tokens(2), _state(mixer, 2))
    assert spy.count == 0


def _arguments(kind, dtype=torch.float32):
    """The operator's own arguments, as a layer gives them."""
    mixer = _mixer(kind, {"headdim": 16, "d_ssm": 32} if kind == "mamba2" else {}, dtype)
    found = []
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(getattr(native.OPS, f"{kind}_step"), "default", lambda *a: found.extend(a) or a[0])
        mixer(_tokens(2, dtype), _state(mixer, 2, dtype))
    return found


@pytest.mark.parametrize("kind", ["mamba1", "mamba2"])
def test_opcheck(kind):
    op = getattr(native.OPS, f"{kind}_step").default
    assert [a.name for a in op._schema.arguments if a.alias_info is not None] == ["conv_state", "ssm_state"]
    torch.library.opcheck(op, tuple(_arguments(kind)))


def _names(kind):
    return [argument.name for argument in getattr(native.OPS, f"{kind}_step").default._schema.arguments]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in ("mamba1", "mamba2") for name in _names(kind)]
                         if native.LOADED else [])  # fmt: skip
def test_wrong_shapes_and_dtypes_are_named(kind, name):
    arguments, at = _arguments(kind), _names(kind).index(name)
    given = arguments[at]
    if given is None:
        wrong = [torch.ones(3)]
    elif isinstance(given, torch.Tensor):
        wrong = [given.double(), given.half(), given[..., 1:]] if name != "out_weight" else [given.half()]
    elif name in ("groups", "conv_activation", "gate_activation"):
        wrong = [99, -1]
    else:
        return
    for value in wrong:
        arguments[at] = value
        with pytest.raises(RuntimeError, match=f"{kind}_step: "):
            getattr(native.OPS, f"{kind}_step")(*arguments)
