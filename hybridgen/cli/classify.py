"""`hybridgen classify`: what a saved model of images sees in pictures."""

import json
import stat
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybridgen.cli.arguments import Device, DType, ModelDirectory, check_has_values
from hybridgen.cli.tables import print_table
from hybridgen.errors import HybridgenError, UnsupportedError

if TYPE_CHECKING:
    from hybridgen.model.vision import VisionModel

_AT_ONCE = 8
Pictures = Annotated[list[Path], typer.Argument(help="Files with pictures.", show_default=False)]
Labels = Annotated[
    Path | None, typer.Option(help="Names of the classes: a line each, or JSON, a list or {'0': name, ...}.")
]
CropRatio = Annotated[float, typer.Option(help="Share of a picture's tighter side that the model sees, in the middle.")]


def classify(
    model_dir: ModelDirectory,
    pictures: Pictures,
    *,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Classes to print for each picture.")] = 5,
    labels: Labels = None,
    crop_ratio: CropRatio = 0.875,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = "cpu",
    dtype: Annotated[DType | None, typer.Option(help="Format of the weights; as saved if not given.")] = None,
) -> None:
    """Print the likeliest classes of pictures."""
    from hybridgen.allocator import keep_memory
    from hybridgen.checkpoint import load

    keep_memory()
    model = _checked(load(model_dir, device=device, dtype=dtype and dtype.value), model_dir)
    names = _read_labels(labels, model.num_classes) if labels is not None else None
    unread: list[str] = []
    with warnings.catch_warnings():
        # Pillow's remarks on pictures that it reads all the same name lines of its own code.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        found = list(_classified(model.eval(), pictures, crop_ratio, top_k, unread))
    if as_json:
        entries = [{"picture": str(path), "classes": [_entry(*each, names) for each in best]} for path, best in found]
        typer.echo(json.dumps(entries, indent=2))
    elif found:
        rows = [
            (str(path) if rank == 1 else "", str(rank), str(index), names[index] if names else "", f"{share:.4f}")
            for path, best in found
            for rank, (index, share) in enumerate(best, start=1)
        ]
        headings = ("picture", "rank", "class", "name", "probability")
        columns = [column for column in range(5) if names or column != 3]
        kept = [tuple(row[column] for column in columns) for row in (headings, *rows)]
        print_table(kept[0], kept[1:], right=("rank", "class", "probability"))
    if unread:
        raise HybridgenError("\n".join(unread))


def _checked(model: Any, place: Path) -> "VisionModel":
    from hybridgen.model.vision import check_is_vision

    try:
        checked = check_is_vision(model)
    except HybridgenError as error:
        raise HybridgenError(f"{place}: {error}") from error
    if not checked.num_classes or getattr(checked.spec.head, "pool", None) == "all":
        raise UnsupportedError(f"{place}: classify needs a head that classifies whole images; this model has none")
    check_has_values(checked)
    return checked


def _classified(
    model: "VisionModel", pictures: Sequence[Path], crop_ratio: float, top_k: int, unread: list[str]
) -> Iterator[tuple[Path, list[tuple[int, float]]]]:
    """Yields each picture's likeliest classes with their probabilities; what cannot be read is said in `unread`."""
    import torch

    from hybridgen.vision.pictures import read_picture

    for begin in range(0, len(pictures), _AT_ONCE):
        images, paths = [], []
        for path in pictures[begin : begin + _AT_ONCE]:
            try:
                images.append(read_picture(path, model.source, crop_ratio))
            except UnsupportedError:
                raise
            except HybridgenError as error:
                unread.append(str(error))
                continue
            paths.append(path)
        if not images:
            continue
        with torch.inference_mode():
            logits = model(torch.stack(images).to(model.device, model.dtype))
        if not logits.isfinite().all():
            raise HybridgenError("the model's logits are not finite: look at its weights, or give --dtype float32")
        shares, classes = logits.float().softmax(dim=-1).topk(min(top_k, model.num_classes))
        for path, row, share in zip(paths, classes.tolist(), shares.tolist(), strict=True):
            yield path, list(zip(row, share, strict=True))


def _entry(index: int, share: float, names: Sequence[str] | None) -> dict[str, Any]:
    return {"class": index, **({"name": names[index]} if names else {}), "probability": share}


def _read_labels(path: Path, count: int) -> list[str]:
    if not stat.S_ISREG(path.stat().st_mode):
        raise HybridgenError(f"{path}: is no regular file; name one with a line per class, or with JSON")
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors of Windows put a mark in front
    except UnicodeDecodeError as error:
        raise HybridgenError(f"{path}: is not text in UTF-8; save it as UTF-8") from error
    names: Any = text.rstrip().split("\n")
    if text.lstrip()[:1] in ("[", "{"):
        try:
            names = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise HybridgenError(f"{path}: begins like JSON and is none: {error}") from error
    if isinstance(names, dict):
        # torchvision's file has [id, name] for each class.
        names = [names.get(str(index)) for index in range(count)] if len(names) == count else list(names)
        names = [name[-1] if isinstance(name, list) and name else name for name in names]
    if len(names) != count:
        raise HybridgenError(f"{path}: must name the model's {count} classes; it names {len(names)}")
    if not all(isinstance(name, str) for name in names):
        raise HybridgenError(f"{path}: must name each class 0 ... {count - 1} by a text")
    for index, name in enumerate(names):
        if not name.strip():
            raise HybridgenError(f"{path}: class {index} has an empty name; write one, such as {index}")
    return list(names)
