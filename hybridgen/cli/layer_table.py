"""The table of layers that `show`, `build --dry-run` and the demo print."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from hybridgen.cli.tables import print_table, terminal_width
from hybridgen.cli.units import human_bytes

if TYPE_CHECKING:
    from hybridgen.spec import ModelSpec
    from hybridgen.spec.base import Spec
    from hybridgen.spec.pattern import Repeat


# Columns of a terminal below which mixer and MLP share a column, and what one layer has is left out.
_WIDE = 100


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
    fields = [f"{name}={_list_name(name, value) or value_text(value)}" for name, value in values.items()]
    kind = getattr(part, "type", None)
    return " ".join([kind, *fields] if kind else fields)


def print_model(spec: "ModelSpec", sizes: Mapping[str, Size], with_bytes: bool = False) -> None:
    """Prints what a model is, then one line per run of equal layers; groups of layers that repeat stand there once.

    Args:
        spec: The model.
        sizes: The size of every layer under its number (`"0"`, `"1"`, ...) and of the other parts under their names.
        with_bytes: Whether to print bytes too.
    """
    _print_facts(spec)
    rows = _layer_rows(spec, sizes)
    others = {name: size for name, size in sizes.items() if not name.isdigit()}
    rows += [[name, "", "", "", *_size_cells(size)] for name, size in others.items()]
    rows.append(["total", "", "", "", *_size_cells(sum(sizes.values(), Size(0, 0)))])
    headings = ["layers", "mixer", "mlp", "each", "parameters", "bytes"]
    if not with_bytes:
        headings, rows = headings[:-1], [row[:-1] for row in rows]
    if terminal_width(_WIDE) < _WIDE:
        headings = ["layers", "mixer, mlp", *headings[4:]]
        rows = [
            [place, mixer + (f", mlp {mlp}" if mlp.strip("-") else ""), *rest] for place, mixer, mlp, _, *rest in rows
        ]
    print_table(headings, rows, right=("each", "parameters", "bytes"), whole=("layers",))


def sizes_from_cost(spec: "ModelSpec", dtype: str = "float32") -> dict[str, Size]:
    """The sizes of a model's parts, worked out from its spec; parts without weights are left out, but for layers."""
    from hybridgen.costs import cost
    from hybridgen.costs.state import BYTES
    from hybridgen.costs.weight_bytes import layer_weight_bytes

    counts = {part.name.removeprefix("layers."): part.parameters.total for part in cost(spec).parts}
    layers = dict(enumerate(layer_weight_bytes(spec, dtype)))
    return {
        name: Size(count, layers[int(name)] if name.isdigit() else count * BYTES[dtype])
        for name, count in counts.items()
        if name.isdigit() or count
    }


def _print_facts(spec: "ModelSpec") -> None:
    backbone = spec.backbone
    shown = {"d_model", "n_layer", "pattern", "blocks", "norm", "norm_placement", "init"}
    settings = backbone.model_dump(mode="json", exclude_defaults=True, exclude=shown | {"residual_attn"})
    if backbone.residual_attn is not None:
        settings["residual_attn"] = backbone.residual_attn.carry
    others = "".join(f", {name}={value_text(value)}" for name, value in settings.items())
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


def _layer_rows(spec: "ModelSpec", sizes: Mapping[str, Size]) -> list[list[str]]:
    """One row per run of equal layers; those of a group that repeats are indented below a row that says how often."""
    from hybridgen.spec.pattern import Repeat, expand_pattern, fold

    rows: list[list[str]] = []

    def add(parts: Sequence[Repeat], first: int, indent: str, starts: Sequence[int]) -> int:
        """Adds rows for parts that begin at layer `first`, and so many layers behind each of `starts` again."""
        for part in parts:
            if isinstance(part.body, str):
                layer = spec.backbone.blocks[part.body]
                numbers = [first + start + step for start in starts for step in range(part.count)]
                cells = [describe(layer.mixer), describe(layer.mlp), *_sum_cells([sizes[str(n)] for n in numbers])]
                rows.append([indent + _run_text(first, part.count), *cells])
                first += part.count
                continue
            heading = len(rows)
            rows.append([])
            length = _length(part.body)
            inner = [start + length * step for start in starts for step in range(part.count)]
            add(part.body, first, indent + "  ", inner)
            rows[heading] = [
                f"{indent}{first}-{first + length * part.count - 1}",
                f"{part.count} times",
                "",
                "",
                "",
                "",
            ]
            first += length * part.count
        return first

    add(fold(expand_pattern(spec.backbone.pattern)), 0, "", [0])
    return rows


def _length(parts: "Sequence[Repeat]") -> int:
    return sum(part.count * (1 if isinstance(part.body, str) else _length(part.body)) for part in parts)


def _run_text(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1} x{count}"


def _sum_cells(sizes: Sequence[Size]) -> list[str]:
    """What one layer has, and what all have; one of several equal layers may have weights that the others lack."""
    each = sorted({size.parameters for size in sizes})
    return ["-".join(f"{count:,}" for count in (each[0], each[-1])[: len(each)]), *_size_cells(sum(sizes, Size(0, 0)))]


def _size_cells(size: Size) -> list[str]:
    return [f"{size.parameters:,}", human_bytes(size.weight_bytes)]


def _list_name(field: str, value: object) -> str | None:
    """The name of a well-known list of scan orders, which is shorter than the list."""
    from hybridgen.spec.scans import SCANS

    names = [name for name, orders in SCANS.items() if field == "scan" and value == list(orders)]
    return names[0] if names else None


def value_text(value: object) -> str:
    """Writes a value of a field as a document would have it, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(value_text(item) for item in value)}]"
    return "null" if value is None else str(value)
