"""What objectives that run a model have in common: for how many tokens, in which number format, where."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from hybridgen.costs.state import can_decode
from hybridgen.errors import HybridgenError
from hybridgen.objectives.base import Objective
from hybridgen.spec import ModelSpec
from hybridgen.spec.ends import PatchesInputSpec

_FACTORS = {"k": 1024, "M": 1024**2}
_MOST = 10**12  # tokens or rows: as `hybridgen.cost`


def _length(given: Any) -> Any:
    """Reads `4k` and `1M`; anything else is left to the type."""
    match = re.fullmatch(r"([0-9]{1,12})([kM])", given.strip()) if isinstance(given, str) else None
    return given if match is None else int(match[1]) * _FACTORS[match[2]]


def _device(name: str) -> str:
    if re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", name) is None:
        raise ValueError("must be cpu, cuda, or cuda:1 for one of several")
    return name


Length = Annotated[int, Field(ge=1, le=_MOST), BeforeValidator(_length)]
"""Tokens: 4096 or 4k; k is 1024 and M its square."""
Count = Annotated[int, Field(ge=1, le=_MOST)]
"""Rows, or how often."""
Device = Annotated[str, AfterValidator(_device)]
DTypeName = Literal["float32", "float16", "bfloat16", "float64"]


class RunObjective(Objective):
    """An objective that reads a prompt with a model, and goes on from it token by token where the model can.

    Attributes:
        seq_len: Tokens of the prompt per row; None is 512, or the tokens of an image for a model of images, which takes
            no others.
        batch_size: Rows.
        decode_steps: Tokens per row that are read one by one behind the prompt; 0 for none.
        dtype: Of weights, activations and keys.
        device: `cpu`, `cuda`, or `cuda:1` for one of several.
    """

    seq_len: Length | None = None
    batch_size: Count = 1
    decode_steps: Annotated[int, Field(ge=0, le=_MOST)] = 16
    dtype: DTypeName = "float32"
    device: Device = "cpu"

    def check(self, spec: ModelSpec) -> None:
        """Refuses a length that a model of images does not have."""
        if self.seq_len is None or not isinstance(spec.input, PatchesInputSpec):
            return
        if self.seq_len != spec.input.length():
            raise HybridgenError(
                f"--objective: {self.kind}: seq_len: this model reads images of {spec.input.length()} tokens, class "
                f"tokens included; given {self.seq_len}: leave it out"
            )

    def length(self, spec: ModelSpec) -> int:
        """Tokens of the prompt per row."""
        if isinstance(spec.input, PatchesInputSpec):
            return spec.input.length()
        return 512 if self.seq_len is None else self.seq_len

    def steps(self, spec: ModelSpec) -> int:
        """Tokens to decode: none where the model cannot."""
        return self.decode_steps if can_decode(spec) else 0
