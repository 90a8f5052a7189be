"""One token through a whole Mamba mixer in one call, where the single operators would run in our own extension.

The layers ask `refusal` first; what it refuses takes the general path. There is no plain version: that path is it.
"""

from hybridgen.ops.mamba_step.native import (
    MAMBA1_OPERATORS,
    MAMBA2_OPERATORS,
    mamba1_step,
    mamba2_step,
    refusal,
)

__all__ = ["MAMBA1_OPERATORS", "MAMBA2_OPERATORS", "mamba1_step", "mamba2_step", "refusal"]
