"""What can stand on the vertical axis, and how numbers are written: bytes in binary steps, all else in SI steps."""

import re
from typing import Literal, NamedTuple

from hybridgen.errors import HybridgenError

Scale = Literal["bytes", "flops", "count"]
_PREFIXES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_COUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kmgt]?)", re.IGNORECASE)
_MOST = 2**50
_STEPS = {
    "bytes": (1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")),
    "flops": (1000, ("", "k", "M", "G", "T", "P", "E")),
    "count": (1000, ("", "k", "M", "B", "T")),  # as the field writes parameters: 2.7B
}


class Quantity(NamedTuple):
    """One of `ModelCost.metrics()`, or a speed: what it is called on an axis, and the scale of its numbers."""

    title: str
    scale: Scale


QUANTITIES = {
    "params": Quantity("Parameters", "count"),
    "active_params": Quantity("Active parameters", "count"),
    "non_embedding_params": Quantity("Parameters of the stack", "count"),
    "weight_bytes": Quantity("Weights", "bytes"),
    "prefill_flops": Quantity("Prefill FLOPs per token", "flops"),
    "decode_flops": Quantity("FLOPs of decoding one more token", "flops"),
    "train_flops": Quantity("Training FLOPs per token", "flops"),
    "state_bytes": Quantity("Decoding state", "bytes"),
    "kv_bytes": Quantity("Keys and values", "bytes"),
    "ssm_bytes": Quantity("States of scans and convolutions", "bytes"),
    "activation_bytes": Quantity("Activations kept in training", "bytes"),
    "train_memory": Quantity("Training memory of one device", "bytes"),
    "prefill_tokens_per_s": Quantity("Prefill, tokens per second at best", "flops"),
    "decode_tokens_per_s": Quantity("Decoding, tokens per second at best", "flops"),
    "train_tokens_per_s": Quantity("Training, tokens per second at best", "flops"),
}
"""What can be drawn, by name."""
SPEEDS = {"prefill_tokens_per_s": "prefill", "decode_tokens_per_s": "decode", "train_tokens_per_s": "training"}
"""Those that a device decides, each with the call in `Roofline` that it is the speed of; the rest are metrics."""
STATE_METRICS = ("state_bytes", "kv_bytes", "ssm_bytes", "decode_tokens_per_s")
"""Those that only a model that decodes has."""


def written(value: float, scale: Scale) -> str:
    """Writes a number in the largest unit that leaves it at least 1, with three digits: `1.5 GiB`, `250 M`, `2.7B`."""
    step, units = _STEPS[scale]
    index = 0
    while abs(value) >= step * 0.9995 and index < len(units) - 1:
        value /= step
        index += 1
    digits = f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
    gap = " " if units[index] and scale != "count" else ""
    return f"{digits}{gap}{units[index]}"


def tokens_written(value: int) -> str:
    """Writes a length as the field does: `4k` for 4096, `1M` for 1048576; lengths between those with all digits."""
    for exponent, unit in ((30, "G"), (20, "M"), (10, "k")):
        if value >= 2**exponent and value % 2**exponent == 0:
            return f"{value >> exponent:,}{unit}"
    return f"{value:,}"


def parse_count(text: str, name: str) -> int:
    """Reads a whole number, 1 or more; `k`, `M` and `G` are 1024, 1024² and 1024³, as lengths are counted.

    Args:
        text: Such as `4096`, `4k` or `1M`.
        name: What it is, for the error.

    Raises:
        HybridgenError: If it is none.
    """
    match = _COUNT.fullmatch(text.strip())
    value = float(match[1]) * 1024 ** _PREFIXES[match[2].lower()] if match else 0.0
    if not 1 <= value <= _MOST or value != int(value):
        raise HybridgenError(f"{name}: must be a whole number, 1 or more, such as 4096, 4k or 1M; given {text!r}")
    return int(value)
