"""`hybridgen prune-budget`: how many keys each selective layer of a saved model needs."""

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from hybridgen.cli.arguments import Device, DType, ModelDirectory, Overwrite, check_replaceable
from hybridgen.cli.tables import print_table
from hybridgen.errors import HybridgenError

if TYPE_CHECKING:
    import torch

    from hybridgen.model.prune_budget import Budgets
    from hybridgen.spec.ends import TokensInputSpec

Data = Annotated[
    Path,
    typer.Option(help="Text to measure on: its bytes as ids for a vocabulary of 256, else ids (text, JSON or .npy)."),
]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="File for the document with the budgets, as YAML.")]
Save = Annotated[Path | None, typer.Option(help="Directory for the model with the budgets, weights and all.")]


def prune_budget(
    model_dir: ModelDirectory,
    *,
    data: Data,
    target_memory: Annotated[float, typer.Option(help="Share of the keys to keep, such as 0.1.")] = 0.1,
    context: Annotated[int, typer.Option(min=4, help="Tokens of a row of text.")] = 512,
    max_tokens: Annotated[int, typer.Option(min=4, help="Tokens to measure on at most.")] = 16_384,
    shrink: Annotated[float, typer.Option(help="A step multiplies the budget of one layer by this.")] = 0.5,
    output: Output = None,
    save: Save = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the curve as JSON.")] = False,
    device: Device = "cpu",
    dtype: Annotated[DType | None, typer.Option(help="Format of the weights; as saved if not given.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Search a budget of keys for each selective layer, and print what each saving of memory costs in perplexity."""
    from hybridgen.allocator import keep_memory
    from hybridgen.checkpoint import load
    from hybridgen.checkpoint import save as save_model
    from hybridgen.model.prune_budget import BudgetSearch, prunable_layers, rebuilt, with_budgets
    from hybridgen.spec.yaml_output import to_yaml

    # What can be refused is refused before minutes are spent on the search.
    if save is not None:
        check_replaceable(save, overwrite, "--save")
        _check_directory(save, output)
    if output is not None:
        _check_file(output, overwrite)
    if max_tokens < context:
        raise HybridgenError(f"--max-tokens must be at least --context, {context}; given {max_tokens}")
    keep_memory()
    model = load(model_dir, device=device, dtype=dtype and dtype.value)
    prunable_layers(model.spec)
    vocab_size = cast("TokensInputSpec", model.spec.input).vocab_size
    ids = _rows(_read_ids(data, vocab_size), data, context, max_tokens).to(model.device)
    if ids.shape[1] < context:
        note = f"{data}: holds {ids.shape[1]} tokens, fewer than --context; the budgets are for contexts of that length"
        typer.echo(note, err=True)
    search = BudgetSearch(model, ids, shrink)
    curve = search.run(target_memory)
    # Whatever becomes of the files, the search was not in vain.
    if as_json:
        typer.echo(json.dumps([_as_json(point) for point in curve], indent=2))
    else:
        _print(curve)
    spec = with_budgets(model.spec, search.bounded(curve[-1]))
    if output is not None:
        _write(output, to_yaml(spec.document()))
    if save is not None:
        save_model(rebuilt(model, spec), save)


def _check_file(path: Path, overwrite: bool) -> None:
    """Refuses a file that cannot be written, or that holds something else than such a document.

    Raises:
        HybridgenError: If so.
    """
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise HybridgenError(f"{path}: must be a file in a directory that exists and can be written to")
    if not path.exists() and not path.is_symlink():
        return
    is_document = path.is_file() and not path.is_symlink() and path.suffix in (".yaml", ".yml")
    if not is_document or not overwrite:
        raise HybridgenError(
            f"{path}: exists; name another file with -o, or a .yaml file and --overwrite to replace it"
        )


def _check_directory(path: Path, output: Path | None) -> None:
    """Refuses a directory that a model cannot be saved in.

    Raises:
        HybridgenError: If so.
    """
    if path.exists() and not path.is_dir():
        raise HybridgenError(f"{path}: must be a directory; it is a file")
    if path.resolve() == Path.cwd() or (output is not None and path.resolve() == output.resolve()):
        raise HybridgenError(f"{path}: name a directory of its own with --save")
    above = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    if not os.access(above, os.W_OK):
        raise HybridgenError(f"{path}: cannot be written, {above} is read-only")


def _print(curve: "list[Budgets]") -> None:
    headings = ("memory", "perplexity", *(f"layer {layer}" for layer in curve[0].per_layer))
    rows = [
        (f"{point.memory:.4f}", f"{point.perplexity:.4f}", *(str(keys) for keys in point.per_layer.values()))
        for point in curve
    ]
    print_table(headings, rows, right=headings)


def _as_json(point: "Budgets") -> dict[str, Any]:
    budgets = {str(layer): keys for layer, keys in point.per_layer.items()}
    return {"memory": point.memory, "perplexity": point.perplexity, "loss": point.loss, "budgets": budgets}


def _read_ids(path: Path, vocab_size: int) -> list[int]:
    """Reads ids: the bytes of the file for a vocabulary of 256, or .npy, JSON or whole numbers by their name and look.

    Raises:
        HybridgenError: If the file holds something else.
    """
    content = path.read_bytes()
    if path.suffix == ".npy":
        ids = _from_npy(path)
    elif vocab_size == 256 and path.suffix != ".json":
        return list(content)
    else:
        try:
            text = content.decode()
            ids = json.loads(text) if text.lstrip().startswith("[") else [int(word) for word in text.split()]
        except (ValueError, RecursionError):
            ids = None
    if not isinstance(ids, list) or not all(type(one) is int for one in ids):
        raise HybridgenError(
            f"{path}: must hold token ids, as this model has a vocabulary of {vocab_size}: whole numbers separated by "
            f"spaces, a JSON list of them, or a .npy file of one axis; there is no tokenizer"
        )
    wrong = next((one for one in ids if not 0 <= one < vocab_size), None)
    if wrong is not None:
        raise HybridgenError(f"{path}: ids must lie in 0 .. {vocab_size - 1}; given {wrong}")
    return ids


def _from_npy(path: Path) -> list[int] | None:
    import numpy

    try:
        array = numpy.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # a damaged header raises whatever its parser meets
        return None
    if not isinstance(array, numpy.ndarray):
        return None
    return array.tolist() if array.ndim == 1 and array.dtype.kind in "iu" else None


def _rows(ids: list[int], path: Path, context: int, max_tokens: int) -> "torch.Tensor":
    """Cuts ids into rows of equal length."""
    import torch

    length = min(context, len(ids))
    if length < 4:
        raise HybridgenError(f"{path}: must hold at least 4 tokens; given {len(ids)}")
    count = max(1, min(len(ids), max_tokens) // length)
    return torch.tensor(ids[: count * length]).view(count, length)


def _write(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
