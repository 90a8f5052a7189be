"""The table of layers that `show`, `build --dry-run` and the demo print."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import typer

from hybridgen.cli.tables import print_table

if TYPE_CHECKING:
    from hybridgen.spec import ModelSpec
    from hybridgen.spec.base import Spec


@dataclass(frozen=True)
class Size:
    """Parameters of a part of a model, and the bytes of their weights."""

    parameters: int
    weight_bytes: int

    def __add__(self, other: "Size") -> "Size":
        return Size(self.parameters + other.parameters, self.weight_bytes + other.weight_bytes)


def describe(part: "Spec | None") -> str:
    """Names a part and those of its fields that differ from their defaults: `mamba2 d_state=64`."""
    if part is None:
        return "-"
    values = part.model_dump(mode="json", exclude_defaults=True, exclude={"type"})
    fields = [f"{name}={_list_name(name, value) or _text(value)}" for name, value in values.items()]
    kind = getattr(part, "type", None)
    return " ".join([kind, *fields] if kind else fields)


def human_bytes(count: int) -> str:
    """Writes a number of bytes with a binary unit: 1536 is `1.5 KiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def print_model(spec: "ModelSpec", sizes: Mapping[str, Size] | None = None) -> None:
    """Prints what a model is, then one line per run of equal layers.

    Args:
        spec: The model.
        sizes: The size of every layer under its number (`"0"`, `"1"`, ...) and of the other parts under their names;
            None prints no sizes.
    """
    _print_facts(spec)
    headings = ["layers", "mixer", "mlp"]
    rows = _layer_rows(spec, sizes)
    if sizes is not None:
        headings += ["parameters", "bytes"]
        others = {name: size for name, size in sizes.items() if not name.isdigit()}
        rows += [[name, "", "", *_size_cells(size)] for name, size in others.items()]
        rows.append(["total", "", "", *_size_cells(sum(sizes.values(), Size(0, 0)))])
    print_table(headings, rows, right=("parameters", "bytes"))


def _print_facts(spec: "ModelSpec") -> None:
    backbone = spec.backbone
    shown = {"d_model", "n_layer", "pattern", "blocks", "norm", "norm_placement", "init"}
    settings = backbone.model_dump(mode="json", exclude_defaults=True, exclude=shown | {"residual_attn"})
    if backbone.residual_attn is not None:
        settings["residual_attn"] = backbone.residual_attn.carry
    others = "".join(f", {name}={_text(value)}" for name, value in settings.items())
    facts = {
        "name": spec.name or "-",
        "input": describe(spec.input) + _token_count(spec.input),
        "stack": f"{backbone.n_layer} layers, d_model {backbone.d_model}, {backbone.pattern}{others}",
        "norm": f"{backbone.norm_placement}, {describe(backbone.norm)}",
        "head": describe(spec.head),
    }
    for name, fact in facts.items():
        typer.echo(f"{name + ':':<7}{fact}")


def _token_count(source: "Spec") -> str:
    """Says how many tokens an image becomes."""
    from hybridgen.spec.ends import PatchesInputSpec

    if not isinstance(source, PatchesInputSpec):
        return ""
    rows, columns = source.grid()
    return f", {rows}x{columns} patches, {source.length()} tokens"


def _layer_rows(spec: "ModelSpec", sizes: Mapping[str, Size] | None) -> list[list[str]]:
    rows = []
    for layer, run in groupby(enumerate(spec.backbone.layers), key=lambda pair: pair[1]):
        numbers = [number for number, _ in run]
        first, last = numbers[0], numbers[-1]
        place = str(first) if first == last else f"{first}-{last} x{len(numbers)}"
        row = [place, describe(layer.mixer), describe(layer.mlp)]
        if sizes is not None:
            row += _size_cells(sum((sizes[str(number)] for number in numbers), Size(0, 0)))
        rows.append(row)
    return rows


def _size_cells(size: Size) -> list[str]:
    return [f"{size.parameters:,}", human_bytes(size.weight_bytes)]


def _list_name(field: str, value: object) -> str | None:
    """The name of a well-known list of scan orders, which is shorter than the list."""
    from hybridgen.spec.scans import SCANS

    names = [name for name, orders in SCANS.items() if field == "scan" and value == list(orders)]
    return names[0] if names else None


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(_text(item) for item in value)}]"
    return "null" if value is None else str(value)
