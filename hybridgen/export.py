"""Models as graphs of standard operations: `torch.export` programs and ONNX files."""

import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hybridgen.errors import HybridgenError, ShapeError, UnsupportedError
from hybridgen.model.model import HybridModel, check_is_hybrid
from hybridgen.ops.standard import standard_operations
from hybridgen.output_file import output_file, replaced_file
from hybridgen.spec.ends import CodebooksInputSpec, HiddenInputSpec, PatchesInputSpec, TokensInputSpec

OPSET = 18
"""The version of ONNX's operators that files use: the one that torch's own translations are written in."""
_PACKAGES = ("onnx", "onnxscript")
_LARGEST = 2**31 - 1  # bytes in a protobuf message, which an ONNX file is
_LONGEST = 2**31 - 1  # of an axis: more is a slip, and PyTorch counts the bytes in 64 bits
_INPUT_NAMES = {"patches": "images", "tokens": "input_ids", "codebooks": "codes", "hidden": "hidden_states"}


class OnnxFile(NamedTuple):
    """What `export_onnx` wrote.

    Attributes:
        path: The file.
        size: Its bytes.
        input: Name of the input.
        output: Name of the output.
        shape: Shape of the input; None for an axis of any length.
        nodes: Operations in the graph.
    """

    path: Path
    size: int
    input: str
    output: str
    shape: tuple[int | None, ...]
    nodes: int


def export_program(
    model: HybridModel, batch_size: int | None = None, sequence_length: int | None = None
) -> torch.export.ExportedProgram:
    """Traces a model into a `torch.export` program that runs without hybridgen.

    The program is that of eval mode without a decoding state. It holds PyTorch's own operations only, whatever backend
    is chosen; scans are written out in log2(T) steps over the whole sequence (see `linear_recurrence`), which costs
    memory of about 24 B T D N bytes. `torch.export.export(model, ...)` keeps hybridgen's operators in the graph.

    Args:
        model: The model.
        batch_size: Rows of the input; None is any number of them.
        sequence_length: Tokens per row, T. For models that read images the spec says it, and it is None.

    Raises:
        HybridgenError: If it is no model of hybridgen's.
        ShapeError: If sequence_length is missing, or is given for images, or a number is below 1 or out of all bounds.
    """
    model = check_is_hybrid(model)
    for name, given in (("batch_size", batch_size), ("sequence_length", sequence_length)):
        if given is not None and (type(given) is not int or not 1 <= given <= _LONGEST):
            most = f" and at most {_LONGEST}" if type(given) is int and given > 1 else ""
            raise ShapeError(f"{name} must be a whole number, 1 or more{most}; given {given!r}")
    # An axis of length 1 or 0 in the example would be taken for always so.
    try:
        example = _example(model, batch_size or 2, sequence_length)
    except RuntimeError as error:
        raise ShapeError(
            f"an input of {batch_size or 2} rows does not fit into memory; write a smaller batch_size, or "
            f"None (on the command line dynamic) for any"
        ) from error
    shapes = ({0: torch.export.Dim("batch")} if batch_size is None else {},)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), standard_operations(), _quiet():
            program = torch.export.export(model, (example,), dynamic_shapes=shapes)
            # What in-place operations and views are made of, while the choice of operators still holds.
            return program.run_decompositions({})
    finally:
        for module, was_training in modes.items():
            module.training = was_training


def export_onnx(
    model: HybridModel,
    path: str | os.PathLike[str],
    batch_size: int | None = None,
    sequence_length: int | None = None,
) -> OnnxFile:
    """Writes a model as an ONNX file, weights included, in the place of what was there.

    The graph is that of `export_program`. The file is checked by onnx before it gets its name.

    Args:
        model: The model, in float32.
        path: The file to write.
        batch_size: Rows of the input; None is any number of them.
        sequence_length: Tokens per row; None for models that read images.

    Raises:
        HybridgenError: If it is no model of hybridgen's, the onnx packages are missing, or the file cannot be written.
        ShapeError: As `export_program` does.
        UnsupportedError: If the model is not in float32, is too large for one file, or has an operation that ONNX has
            no translation of.
    """
    model = check_is_hybrid(model)
    target = output_file(path, "model.onnx")
    _check(model)
    import onnx

    program = export_program(model, batch_size, sequence_length)
    input_name = _INPUT_NAMES[model.spec.input.type]
    output_name = "logits" if model.spec.head.type != "none" else "last_hidden_state"
    with _quiet():
        try:
            translated = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[input_name],
                output_names=[output_name],
                optimize=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise UnsupportedError(f"the model has no translation to ONNX: {error}") from error
    assert translated is not None, "without a file name torch returns the translation"
    _simplify(translated.model)
    with replaced_file(target) as written:
        translated.save(written, external_data=False)
        _tidy(written)
        onnx.checker.check_model(written, full_check=True)
    shape = tuple(_example(model, 1, sequence_length).shape)
    nodes = len(translated.model.graph)
    return OnnxFile(target, target.stat().st_size, input_name, output_name, (batch_size, *shape[1:]), nodes)


def _simplify(graph: Any) -> None:
    """Works out what is constant and says nothing twice.

    torch's own optimisation also looks for patterns, and for each of these searches the whole graph at each node: a Vim
    of 24 layers takes it more than a quarter of an hour. What runs the file looks for patterns of its own.
    """
    from onnx_ir.passes.common import CommonSubexpressionEliminationPass
    from onnxscript import optimizer

    optimizer.fold_constants(graph)
    optimizer.remove_unused_nodes(graph)
    CommonSubexpressionEliminationPass()(graph)


def _tidy(path: Path) -> None:
    """Calls the first axis `batch` in the file, and removes the stack traces of the export, which name local files."""
    import onnx

    file = onnx.load(path)
    graph = file.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim if symbol else ():
            if axis.dim_param:
                axis.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", "batch", axis.dim_param)
        del value.metadata_props[:]
    for described in (file, graph, *graph.node, *graph.initializer, *file.functions):
        del described.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
    onnx.save(file, path)


def _check(model: HybridModel) -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise HybridgenError(
            f"writing ONNX files needs {' and '.join(missing)}; install with `pip install 'hybridgen[onnx]'`, or "
            f"`pip install {' '.join(missing)}`"
        )
    if model.device.type == "meta":
        raise UnsupportedError("the model is on the device meta, where weights have no values; load or build it on cpu")
    if model.dtype != torch.float32:
        raise UnsupportedError(
            f"ONNX files are written in float32, but the model is in {model.dtype}; call model.float() first"
        )
    # Tied weights are one parameter here, and one tensor in the file.
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if size > _LARGEST:
        raise UnsupportedError(f"an ONNX file holds at most 2 GiB, but the weights take {size / 2**30:.1f} GiB")


def _example(model: HybridModel, batch: int, length: int | None) -> Tensor:
    """An input of zeros; (B, C, height, width) for images, else (B, T, ...)."""
    spec = model.spec.input
    if isinstance(spec, PatchesInputSpec):
        if length is not None:
            raise ShapeError(f"sequence_length is for models that read sequences; images have {spec.length()} tokens")
        return torch.zeros(batch, spec.channels, *spec.size(), dtype=model.dtype, device=model.device)
    if length is None:
        raise ShapeError(
            "sequence_length is missing (on the command line --sequence-length): the graph is for sequences of one "
            "length"
        )
    match spec:
        case TokensInputSpec():
            return torch.zeros(batch, length, dtype=torch.long, device=model.device)
        case CodebooksInputSpec():
            return torch.zeros(batch, length, spec.n_codebooks, dtype=torch.long, device=model.device)
        case HiddenInputSpec():
            d_model = model.spec.backbone.d_model
            return torch.zeros(batch, length, d_model, dtype=model.dtype, device=model.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself what torch says about its own innards: deprecated calls, other packages that are not there."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch|onnx)")
            yield
    finally:
        log.setLevel(level)
