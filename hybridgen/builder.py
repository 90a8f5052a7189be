"""The one road from a spec to a module."""

from collections.abc import Callable

import torch

from hybridgen.errors import HybridgenError
from hybridgen.model.init import materialise
from hybridgen.model.model import HybridModel
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
    except RuntimeError as error:
        raise HybridgenError(f"device must be a name such as cpu, cuda, cuda:0 or meta; given '{device}'") from error
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise HybridgenError(f"device '{device}' is not there: PyTorch sees {torch.cuda.device_count()} CUDA device(s)")
    return parsed


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
        seed: Decides the starting weights, together with each parameter's name and nothing else.
        progress: Called with (parameters done, parameters in all).

    Raises:
        HybridgenError: For a device or a dtype that does not exist, or a spec that is none.
    """
    if not isinstance(spec, ModelSpec):
        raise HybridgenError(
            f"build takes a ModelSpec; given {type(spec).__name__}: make one with hg.load_spec(path) or "
            f"hg.ModelSpec.model_validate(dict)"
        )
    place, kind = parse_device(device), parse_dtype(dtype)
    with torch.device("meta"):
        model = HybridModel(spec)
    if place.type != "meta":
        return materialise(model, place, kind, seed, progress)
    for name, parameter_dtype in model.parameter_dtypes(kind).items():
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.to(parameter_dtype)
    return model
