"""The tables that Vim's rotation keeps among its weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hybridgen.errors import CheckpointError
from hybridgen.spec import ModelSpec
from hybridgen.spec.ends import PatchesInputSpec

ROPE = ("rope.freqs_cos", "rope.freqs_sin")

_BASE = 10000.0
# Between the cosines of two machines, of angles up to the grid's side.
_TOLERANCE = 1e-5


def rope_tables(spec: ModelSpec) -> dict[str, Tensor]:
    """Returns the cosines and sines, each (patches, d_model), by upstream's names; nothing for a model without.

    The first half of the channels turns with the row, the other with the column, each pair of neighbours by one angle:
    position * base^(-pair / pairs), positions being those of the grid stretched to `rotary_grid`.
    In upstream's order of operations, so that the last bit is the same. Source: arXiv 2104.09864, in the form of EVA-02
    (arXiv 2303.11331).
    """
    source = spec.input
    if not isinstance(source, PatchesInputSpec) or source.rotary == "none":
        return {}
    pairs = spec.backbone.d_model // 4
    speeds = 1.0 / _BASE ** (torch.arange(0, 2 * pairs, 2).float() / (2 * pairs))
    rows, columns = (
        (torch.outer(torch.arange(side) / side * source.rotary_grid, speeds)).repeat_interleave(2, dim=-1)
        for side in source.grid()
    )
    shape = (len(rows), len(columns), 2 * pairs)
    angles = torch.cat([rows[:, None].expand(shape), columns[None].expand(shape)], dim=-1).flatten(0, 1)
    return dict(zip(ROPE, (angles.cos(), angles.sin()), strict=True))


def check_rope(tables: Mapping[str, Tensor], spec: ModelSpec) -> None:
    """Checks the tables of a state dict against those that the spec says.

    Raises:
        CheckpointError: If one is missing, or another.
    """
    for name, expected in rope_tables(spec).items():
        if name not in tables:
            raise CheckpointError(f"weights of Vim: {name} is missing: the model was made without if_rope")
        found = tables[name]
        if found.shape != expected.shape:
            raise CheckpointError(
                f"weights of Vim: {name} is {tuple(found.shape)}, but if_rope makes {tuple(expected.shape)}"
            )
        apart = (found.detach().to("cpu", torch.float32) - expected).abs().max()
        tolerance = _TOLERANCE if found.dtype in (torch.float32, torch.float64) else torch.finfo(found.dtype).eps
        if not apart <= tolerance:
            raise CheckpointError(
                f"weights of Vim: {name} is not what if_rope and pt_hw_seq_len make: differs by up to {apart:.1g}"
            )
