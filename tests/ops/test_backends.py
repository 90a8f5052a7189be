"""The choice of a backend, and the report on what a machine has."""

import asyncio
import importlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest
import torch

from hybridgen.errors import BackendUnavailableError
from hybridgen.ops import backends, kernels, native
from hybridgen.ops.backends import OPERATORS, report, use_backend
from hybridgen.ops.causal_conv1d import causal_conv1d
from hybridgen.ops.selective_scan import selective_scan
from hybridgen.ops.ssd import ssd_scan
from tests.helpers.fake_kernels import FakeKernels


@pytest.fixture(autouse=True)
def _fresh_kernels():
    kernels.load_kernel.cache_clear()
    yield
    kernels.load_kernel.cache_clear()


@pytest.fixture
def nothing_installed(monkeypatch):
    real = importlib.import_module

    def import_module(name):
        package = name.split(".")[0]
        if package not in ("mamba_ssm", "causal_conv1d"):
            return real(name)
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(kernels.importlib, "import_module", import_module)


def _conv(**more):
    return causal_conv1d(torch.ones(1, 5, 8), torch.ones(8, 4), None, "silu", **more)


def _scan(**more):
    x, BC = torch.ones(1, 5, 8), torch.ones(1, 5, 1, 2)
    return selective_scan(x, x, -torch.ones(8, 2), BC, BC, **more)


def _ssd(**more):
    BC = torch.ones(1, 5, 1, 2)
    return ssd_scan(torch.ones(1, 5, 4, 2), torch.ones(1, 5, 4), -torch.ones(4), BC, BC, **more)


@pytest.mark.parametrize(
    ("call", "package", "variables"),
    [
        (_conv, "causal-conv1d", ("CAUSAL_CONV1D_FORCE_BUILD=TRUE", "CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE")),
        (_scan, "mamba-ssm", ("MAMBA_FORCE_BUILD=TRUE", "MAMBA_KEEP_CUDA_BUILD=TRUE", "MAMBA_SKIP_CUDA_BUILD=TRUE")),
        (_ssd, "mamba-ssm", ("MAMBA_FORCE_BUILD=TRUE", "MAMBA_KEEP_CUDA_BUILD=TRUE", "MAMBA_SKIP_CUDA_BUILD=TRUE")),
    ],
    ids=["conv", "scan", "ssd"],
)
def test_a_missing_backend_raises_with_the_install_command(nothing_installed, call, package, variables):
    call()
    call(backend="torch")
    with pytest.raises(BackendUnavailableError) as error:
        call(backend="mamba_ssm")
    text = str(error.value)
    assert f"backend 'mamba_ssm' cannot do this call: {package} is not installed; install it with `" in text
    assert f"pip install --no-build-isolation --no-cache-dir {package}`" in text
    assert all(variable in text for variable in variables)


def test_the_context_chooses_and_the_argument_wins(nothing_installed):
    with use_backend("mamba_ssm"):
        with pytest.raises(BackendUnavailableError):
            _conv()
        _conv(backend="torch")
        with use_backend("torch"):
            _conv()
        with pytest.raises(BackendUnavailableError):
            _conv()
    _conv()


def test_unknown_names_are_refused(no_shape_checks):
    message = "there is no backend 'cudnn'; the names are auto, torch, native, triton, mamba_ssm"
    with pytest.raises(BackendUnavailableError) as error, use_backend("cudnn"):
        pass
    assert str(error.value) == message
    with pytest.raises(BackendUnavailableError) as error:
        _conv(backend="cudnn")
    assert str(error.value) == message


def test_a_compiled_function_follows_the_context(nothing_installed, no_shape_checks):
    torch.compiler.reset()
    compiled = torch.compile(lambda: _conv()[0], backend="eager")
    compiled()
    with use_backend("mamba_ssm"), pytest.raises(BackendUnavailableError):
        compiled()
    compiled()


def test_blocks_may_be_left_in_any_order(nothing_installed):
    def current():
        return backends._current(), backends._entered_in_thread.entered[-1:]

    before = current()
    first, second = use_backend("torch"), use_backend("mamba_ssm")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with pytest.raises(BackendUnavailableError):
        _conv()
    second.__exit__(None, None, None)
    _conv()
    assert current() == before


def test_a_thread_has_a_choice_of_its_own(nothing_installed, no_shape_checks):
    torch.compiler.reset()
    compiled = torch.compile(lambda: _conv()[0], backend="eager")

    def in_another_thread(call):
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(call).result()

    compiled()
    with use_backend("mamba_ssm"):
        in_another_thread(compiled)
        in_another_thread(_conv)
        with pytest.raises(BackendUnavailableError):
            compiled()


def test_interleaved_tasks_have_choices_of_their_own(nothing_installed):
    async def task(name):
        with use_backend(name):
            for _ in range(3):
                await asyncio.sleep(0)
                assert backends._current() == name

    async def both():
        await asyncio.gather(task("torch"), task("mamba_ssm"), task("auto"))

    asyncio.run(both())
    assert backends._entered_in_thread.entered == []


def test_cpu_tensors_are_a_reason_of_their_own(monkeypatch):
    FakeKernels(monkeypatch)
    monkeypatch.setattr(backends, "KERNEL_DEVICES", ("cuda",))
    _scan()
    with pytest.raises(BackendUnavailableError, match="its kernel runs on cuda only, not on cpu; backend='torch' or"):
        _scan(backend="mamba_ssm")


def test_a_build_without_its_cuda_part_is_noticed(monkeypatch):
    FakeKernels(monkeypatch)
    sys.modules["mamba_ssm.ops.selective_scan_interface"].selective_scan_cuda = None
    with pytest.raises(
        BackendUnavailableError, match=r"built without its CUDA part \(selective_scan_cuda is missing\)"
    ):
        _scan(backend="mamba_ssm")
    _ssd(backend="mamba_ssm")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import selective_scan_cuda_that_is_not_there", "needs selective_scan_cuda_that_is_not_there, which is not"),
        ("raise OSError('undefined symbol: _ZN3c10')", r"does not load \(OSError: undefined symbol: _ZN3c10\)"),
        ("", r"has no causal_conv1d\.causal_conv1d_fn"),
    ],
    ids=["missing-extension", "wrong-abi", "wrong-version"],
)
def test_a_broken_installation_is_a_reason(monkeypatch, tmp_path, source, reason):
    (tmp_path / "causal_conv1d.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "causal_conv1d", raising=False)
    _conv()
    with pytest.raises(BackendUnavailableError, match=f"causal-conv1d is installed but {reason}"):
        _conv(backend="mamba_ssm")
    sys.modules.pop("causal_conv1d", None)


def test_report_is_plain_data_about_every_operator(nothing_installed):
    data = json.loads(json.dumps(report()))
    packages = {package["name"]: package for package in data["packages"]}
    assert packages["torch"]["version"] == torch.__version__
    assert "MAMBA_FORCE_BUILD=TRUE" in packages["mamba-ssm"]["install"]
    rows = {row["operator"]: row for row in data["operators"] if row["device"] == "cpu"}
    assert set(rows) == set(OPERATORS)
    assert all(row["backend"] == "native" for row in rows.values())
    assert rows["ssd_scan"]["others"] == {
        "mamba_ssm": "mamba-ssm is not installed",
        "torch": "slower; calls that the kernel cannot do still run here",
    }
    assert data["native"] == {"instruction_set": native.instruction_set(), "missing": {}}


def test_without_the_extension_plain_torch_runs_and_one_warning_says_so(monkeypatch):
    monkeypatch.setattr(native, "LOADED", False)
    monkeypatch.setattr(native, "_MISSING", {"cpu": "it was not built", "cuda": "it was not built"})
    monkeypatch.setattr(backends, "_warned", [])
    with pytest.warns(UserWarning, match="it was not built: plain PyTorch runs in its place, more slowly; build it"):
        _conv()
    _conv()
    with pytest.raises(BackendUnavailableError, match="backend 'native' cannot do this call: it was not built; build"):
        _conv(backend="native")
    assert {row["backend"] for row in report()["operators"]} == {"torch"}


def test_report_names_the_kernels_where_they_run(monkeypatch):
    FakeKernels(monkeypatch)
    rows = {row["operator"]: row["backend"] for row in report()["operators"]}
    ours = {op: rows.pop(op) for op in ("gated_activation", "add_norm", "linear", "selective_attention")}
    assert set(ours.values()) == {"native"}
    assert set(rows.values()) == {"mamba_ssm"}


def test_report_survives_a_broken_installation(monkeypatch):
    broken = ModuleType("causal_conv1d")
    monkeypatch.setitem(sys.modules, "causal_conv1d", broken)
    monkeypatch.setattr(backends.importlib.metadata, "version", lambda name: "1.7.0")
    packages = {package["name"]: package for package in report()["packages"]}
    assert packages["causal-conv1d"]["problem"] == (
        "causal-conv1d is installed but has no causal_conv1d.causal_conv1d_fn"
    )
