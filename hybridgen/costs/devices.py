"""How fast a device can be at best on a model, and whether the model fits: the roofline of two public numbers.

Source of the method: Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009. No device is faster than its
arithmetic or its memory allow; real programs stay below both.
"""

import os
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from hybridgen.costs.results import ModelCost
from hybridgen.costs.state import BYTES
from hybridgen.errors import Fault, HybridgenError, SpecError
from hybridgen.spec.source_tree import Node, plain
from hybridgen.spec.spelling import nearest
from hybridgen.spec.text_file import read_text
from hybridgen.spec.yaml_text import fault_at, parse_yaml

Bound = Literal["compute", "memory"]
_GIGA, _TERA = 10**9, 10**12


@dataclass(frozen=True, slots=True)
class Device:
    """What a datasheet says of a device; dense arithmetic, decimal units.

    Attributes:
        name: By which it is asked for.
        bfloat16_tflops: 10^12 operations a second in matrix products of bfloat16 summed in float32.
        float32_tflops: The same of float32 as PyTorch multiplies by default, without TF32.
        bandwidth_gb_s: 10^9 bytes of its own memory a second.
        memory_gb: 10^9 bytes of memory.
        float16_tflops: Of float16; None is as bfloat16.
        float64_tflops: Of float64; None is not known.
    """

    name: str
    bfloat16_tflops: float
    float32_tflops: float
    bandwidth_gb_s: float
    memory_gb: float
    float16_tflops: float | None = None
    float64_tflops: float | None = None

    def flops(self, dtype: str) -> float:
        """Operations a second in a dtype.

        Raises:
            HybridgenError: If they are not known.
        """
        of = {
            "bfloat16": self.bfloat16_tflops,
            "float16": self.float16_tflops or self.bfloat16_tflops,
            "float32": self.float32_tflops,
            "float64": self.float64_tflops,
        }[dtype]
        if of is None:
            raise HybridgenError(f"device {self.name}: its speed in {dtype} is not known; give it as {dtype}_tflops")
        return of * _TERA


# Peaks of vendors' datasheets, without sparsity, as they stand on the pages named, which were read in November 2026.
# [ml] is compute/accelerator/README.md of github.com/stas00/ml-engineering, [gk] glennklockwood.com/garden/processors.
DEVICES = {
    device.name: device
    for device in (
        # SXM, 80 GB. [gk]/A100: 312, FP32 19.5, FP64 matrix 19.5, 2.039 TB/s.
        Device("a100-80gb", 312, 19.5, 2039, 80, float64_tflops=19.5),
        # SXM. [gk]/h100: 989.4; archive-lib.hpctech.co.jp/gpuproduct/nvidia-h100.html: 1,979 with sparsity, FP32 67,
        # FP64 matrix 67, 3,350 GB/s. The PCIe card is slower (756, 2,000 GB/s).
        Device("h100", 989.4, 67, 3350, 80, float64_tflops=67),
        # SXM. [ml]: 989, FP32 67, 141 GB, 4.8 TB/s; [gk]/h100: the arithmetic is that of the H100.
        Device("h200", 989.4, 67, 4800, 141, float64_tflops=67),
        # mullet.se, product 355414: 362.05, 733 with sparsity, FP32 91.6, 864 GB/s; [ml] says the same.
        Device("l40s", 362.05, 91.6, 864, 48),
        # waredb.com/processor/nvidia-geforce-rtx-4090: BF16 matrix 165.15, FP32 82.58, 1008 GB/s.
        Device("rtx-4090", 165.15, 82.58, 1008, 24),
        # [ml]: 1300 in whole hundreds, FP32 163.4, 192 GB, 5.3 TB/s.
        Device("mi300x", 1300, 163.4, 5300, 192),
    )
}
"""By name; a user's own is a YAML file with the same fields."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The best that a device can do at one kind of work.

    Attributes:
        tokens_per_second: Of all rows together.
        flops: Operations of the call that is estimated.
        bytes: What it moves between memory and arithmetic, by the rules of `roofline`.
        intensity: Operations per byte.
        bound: Which limit is met first.
    """

    tokens_per_second: float
    flops: int
    bytes: int
    intensity: float
    bound: Bound


@dataclass(frozen=True, slots=True)
class Roofline:
    """What a device makes of a model.

    Attributes:
        device: It.
        prefill: Reading whole rows.
        decode: One more token per row; None for models without a decoding state.
        training: A training step.
        serving_bytes: Weights and state on one device.
        training_bytes: Memory of a training step on one device.
        serving_fits: Whether the first fit its memory.
        training_fits: Whether the second fits.
    """

    device: Device
    prefill: Estimate
    decode: Estimate | None
    training: Estimate
    serving_bytes: int
    training_bytes: int
    serving_fits: bool
    training_fits: bool

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        return asdict(self)


def roofline(cost: ModelCost, device: Device) -> Roofline:
    """Estimates the speed of one shard of a model on a device, from above.

    The time of a call is the larger of its operations by the device's arithmetic and its bytes by the bandwidth. Bytes:

    - Decoding reads every weight once (of an embedding table that is not the head as well, only rows: not counted),
      reads keys and values, and reads and writes the states of scans and convolutions.
    - Prefill reads every weight once, writes the state, and writes and reads once what each operation makes.
    - Training does the latter three times, forward and twice as much backward, once more with checkpointing; it reads
      weights twice, writes and reads gradients, and reads and writes weights and optimiser states in the update.

    Args:
        cost: Of the model, with the shards in its setting; speeds are those of one data shard.
        device: From `read_device`.
    """
    setting, total, memory = cost.setting, cost.total, cost.memory
    tensor = setting.tensor_shards
    rate, bandwidth = device.flops(setting.dtype), device.bandwidth_gb_s * _GIGA
    tokens = setting.batch_size * setting.seq_len
    weights = -(-cost.weight_bytes // tensor)
    read = weights - _unread(cost) // tensor
    state, running = total.state.total // tensor, (total.state.ssm + total.state.conv) // tensor
    moved = 2 * cost.written // tensor
    times = 3 if setting.checkpointing == "none" else 4
    update = 2 * (memory.weights + memory.optimizer) + memory.gradients

    def estimate(flops: int, size: int, count: int) -> Estimate:
        flops //= tensor
        compute, transfer = flops / rate, size / bandwidth
        bound: Bound = "compute" if compute >= transfer else "memory"
        return Estimate(count / max(compute, transfer), flops, size, flops / size, bound)

    serving, training_bytes, room = weights + state, memory.total, device.memory_gb * _GIGA
    return Roofline(
        device,
        estimate(total.prefill.total, read + state + moved, tokens),
        estimate(total.decode.total, read + state + running, setting.batch_size) if cost.has_state else None,
        estimate(total.training.total, 3 * weights + times * moved + update, tokens),
        serving,
        training_bytes,
        serving <= room,
        training_bytes <= room,
    )


def _unread(cost: ModelCost) -> int:
    """Bytes of an embedding table that serves for nothing but looking up rows."""
    embedding, head = cost.parts[0], cost.parts[-1]
    # A head that is tied has fewer weights of its own, none or a bias, than it multiplies each token with.
    tokens = cost.setting.batch_size * cost.setting.seq_len
    is_head = 2 * tokens * head.parameters.head < head.prefill.total
    return 0 if is_head or embedding.prefill.total else embedding.parameters.embedding * BYTES[cost.setting.dtype]


def read_device(place: str | os.PathLike[str]) -> Device:
    """Returns the device of a name, or of a YAML file with the fields of `Device`.

    Raises:
        HybridgenError: If no device has this name.
        SpecError: With every fault of the file.
    """
    name = os.fspath(place)
    known = DEVICES.get(name.lower())
    if known is not None:
        return known
    if not name.endswith((".yaml", ".yml")) and not os.path.isfile(name):
        near = nearest(name.lower(), DEVICES)
        advice = f"; closest is '{near}'" if near else ""
        raise HybridgenError(
            f"device {name}: must be one of {', '.join(DEVICES)}, or a YAML file with the fields "
            f"{', '.join(one.name for one in fields(Device))}{advice}"
        )
    parsed = parse_yaml(read_text(name), name)
    if parsed.root is None or parsed.faults:
        raise SpecError(parsed.faults)
    faults = list(_faults(parsed.root))
    if faults:
        raise SpecError(faults)
    return Device(**plain(parsed.root))


def _faults(root: Node) -> list[Fault]:
    """What is wrong with a device's file, whose top is a mapping."""
    assert isinstance(root.value, dict), "parse_yaml returns mappings"
    names = [one.name for one in fields(Device)]
    found = []
    for key, node in root.value.items():
        if key not in names:
            message = f"a device has no field {key!r}; it has {', '.join(names)}"
            found.append(fault_at(node.key_place or node.place, (key,), message, nearest(key, names, root.value)))
            continue
        value = node.value
        if key == "name":
            if not isinstance(value, str) or not value:
                found.append(fault_at(node.place, (key,), f"must be a text; given {plain(node)!r}", "write a name"))
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            message = f"must be a number above 0 and below 1e9; given {plain(node)!r}"
            found.append(fault_at(node.place, (key,), message, "look it up in the device's datasheet"))
    for name in names[:5]:
        if name not in root.value:
            found.append(fault_at(root.place, (name,), "required field is missing", f"add {name}: from its datasheet"))
    return found
