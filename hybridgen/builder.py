"""The one road from a spec to a module."""

from collections.abc import Callable

import torch

from hybridgen.errors import HybridgenError
from hybridgen.model.init import materialise
from hybridgen.model.model import HybridModel
from hybridgen.model.vision import VisionModel
from hybridgen.spec.ends import PatchesInputSpec
from hybridgen.spec.model import ModelSpec

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Returns the dtype of a name such as `bfloat16`.

    Raises:
        HybridgenError: If there is no such floating-point dtype.
    """
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise HybridgenError(f"dtype must be one of {', '.join(DTYPES)}; given '{dtype}'")
        return DTYPES[dtype]
    if dtype not in DTYPES.values():
        raise HybridgenError(f"dtype must be one of {', '.join(DTYPES)}; given {dtype}")
    return dtype


def parse_device(device: str | torch.device) -> torch.device:
    """Returns the device of a name such as `cuda:0`.

    Raises:
        HybridgenError: If the name is none, or the device is not there.
    """
    try:
        parsed = torch.device(device)
        is_there = parsed.type in ("cpu", "meta") or _count(parsed.type) > (parsed.index or 0)
    except (RuntimeError, TypeError) as error:
        raise HybridgenError(f"device must be a name such as cpu, cuda, cuda:0 or meta; given {device!r}") from error
    if not is_there:
        raise HybridgenError(
            f"device '{device}' is not there: PyTorch sees {_count(parsed.type)} device(s) of type {parsed.type}"
        )
    return parsed


def _count(device_type: str) -> int:
    if device_type == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, device_type, None)
    return module.device_count() if module is not None and hasattr(module, "device_count") else 0


def build(
    spec: ModelSpec,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> HybridModel:
    """Builds the model that a spec describes and initialises it.

    Args:
        spec: From `load_spec` or `ModelSpec.model_validate`.
        device: Where the weights go; `meta` gives a model without storage, for shapes and counts.
        dtype: float32, bfloat16, float16 or float64, by name or as torch's dtype.
        seed: Decides, with each parameter's name, what is drawn for it.
        progress: Called with (parameters done, parameters in all).

    Raises:
        HybridgenError: For a device or a dtype that does not exist, a spec or a seed that is none, or weights beyond
            every address.
    """
    if not isinstance(spec, ModelSpec):
        raise HybridgenError(
            f"build takes a ModelSpec; given {type(spec).__name__}: make one with hg.load_spec(path) or "
            f"hg.ModelSpec.model_validate(dict)"
        )
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise HybridgenError(f"seed must be an integer; given {seed!r}")
    place, kind = parse_device(device), parse_dtype(dtype)
    try:
        with torch.device("meta"):
            model = VisionModel(spec) if isinstance(spec.input, PatchesInputSpec) else HybridModel(spec)
    except RuntimeError as error:
        if "overflowed" not in str(error):
            raise
        raise HybridgenError(
            f"{spec.name or 'the spec'}: one weight alone is too large for any machine to address; look at the widths "
            f"and vocabularies"
        ) from error
    if place.type != "meta":
        return materialise(model, place, kind, seed, progress)
    for name, parameter_dtype in model.parameter_dtypes(kind).items():
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.to(parameter_dtype)
    return model
