"""How weights get their starting values: by the seed and their name, on every device the same."""

import hashlib
from collections.abc import Callable

import torch
from torch import nn

from hybridgen.layers.linear import Initialised
from hybridgen.model.model import HybridModel


def parameter_generator(seed: int, name: str) -> torch.Generator:
    """Returns a CPU generator whose stream depends on the seed and the parameter's name alone.

    So what is drawn for a weight is the same on every device, in every build order, whatever layers stand around it.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def materialise(
    model: HybridModel,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> HybridModel:
    """Gives every parameter storage and its starting value, in place; the model may be on the meta device.

    One parameter at a time is drawn in float32 on the CPU and then moved, so that the peak memory is that of the
    model plus one parameter.

    Args:
        model: Any model, materialised or not; its values are replaced.
        device: Where the parameters go.
        dtype: Their dtype; A_log, D and dt_bias stay in float32 if this is smaller.
        seed: Any integer.
        progress: Called with (parameters done, parameters in all) after each.
    """
    dtypes = model.parameter_dtypes(dtype)
    aliases = model.tied_weights()
    owned = [
        (module, f"{prefix}.{name}" if prefix else name, name)
        for prefix, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
        if f"{prefix}.{name}" not in aliases
    ]
    for done, (module, full_name, name) in enumerate(owned, start=1):
        assert isinstance(module, Initialised), f"{type(module).__name__} owns {name} and has no initial_value"
        value = module.initial_value(name, parameter_generator(seed, full_name))
        setattr(module, name, nn.Parameter(value.to(device=device, dtype=dtypes[full_name])))
        if progress is not None:
            progress(done, len(owned))
    model.tie_weights()
    return model
