"""The rules that keep the tree readable: what may import what, what may be loaded when, how long a file may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hybridgen"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted([*MODULES, *(ROOT / "scripts").rglob("*.py"), *(ROOT / "tests").rglob("*.py")])

PARTS_OF_A_MODEL = {"errors", "spec", "layers", "model"}
FILES = {"atomic", "json_file", "weight_files", "weight_names"}
# What each part may import besides itself. A part is a package or a module directly under hybridgen/.
ARROWS = {
    "errors": set(),
    "allocator": set(),
    "output_file": {"errors"},
    "intervals": set(),
    "spec": {"errors"},
    "ops": {"errors"},
    **{name: {"errors"} for name in FILES},
    "weight_files": {"errors", "json_file"},
    "layers": {"errors", "spec", "ops"},
    "model": {"errors", "spec", "ops", "layers"},
    "builder": PARTS_OF_A_MODEL,
    "hub": {"errors", "spec", "costs", "drawing"},
    "checkpoint_files": {"errors", "spec", "hub"} | FILES,
    "checkpoint": PARTS_OF_A_MODEL | FILES | {"builder", "hub", "checkpoint_files"},
    "export": PARTS_OF_A_MODEL | {"ops", "output_file"},
    "interop": PARTS_OF_A_MODEL | FILES | {"builder", "checkpoint", "checkpoint_files"},
    "vision": PARTS_OF_A_MODEL | {"builder"},
    "costs": {"errors", "spec"},
    "drawing": {"errors", "spec", "costs", "output_file"},
    "tasks": {"errors"},
    "probing": {"errors", "spec", "allocator", "model", "builder", "costs", "tasks", "intervals"},
    "comparison": {"errors", "spec", "costs"},
    "curves": {"errors", "spec", "costs", "output_file"},
    "sweep": {"errors", "spec", "costs", "output_file"},
    "objectives": {"errors", "spec", "ops", "allocator", "model", "builder", "costs", "tasks", "probing", "intervals"},
    "runs": {"errors", "spec", "sweep", "objectives", "output_file", "allocator", "builder"},
    "reports": {"errors", "spec", "runs", "objectives", "drawing", "curves", "intervals", "output_file"},
    "hydra": {"errors", "spec"},
    "hf": PARTS_OF_A_MODEL | {"builder", "hub", "ops", "integrations", "output_file"},
    "integrations": {"errors", "layers", "ops"},
    "cli": PARTS_OF_A_MODEL
    | {"__init__", "allocator", "ops", "builder", "checkpoint", "checkpoint_files", "hub", "export", "interop"}
    | {"vision", "json_file", "weight_files"}
    | {"costs", "drawing", "comparison", "curves", "output_file", "sweep", "probing"}
    | {"objectives", "runs", "reports"},
}
PUBLIC_NAMES = "__init__"  # hybridgen/__init__.py imports any part, but only when a name is used
OPTIONAL = {
    "transformers",
    "mamba_ssm",
    "causal_conv1d",
    "triton",
    "PIL",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "resvg_py",
    "matplotlib",
    "optuna",
    "pyarrow",
    "submitit",
    "ray",
    "joblib",
    "jinja2",
    "sklearn",
    "accelerate",
    "peft",
    "liger_kernel",
    "kernels",
}
# Imported when a kernel is first launched.
KERNEL_FILES = {"triton_kernels.py", "triton_backward_kernels.py"}
HEAVY_FOR_CLI = {"torch", "rich", "hydra", "omegaconf", "pydantic", "safetensors", "numpy"}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _part(module: str) -> str:
    """The part of the package a dotted name belongs to; `hybridgen` itself is `__init__`."""
    return module.split(".")[1] if "." in module else PUBLIC_NAMES


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _imports(tree: ast.AST, in_functions: bool) -> Iterator[str]:
    """Yields the dotted names that a module imports when loaded, and with `in_functions` those inside functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            if in_functions:
                yield from _imports(node, in_functions)
        elif not _is_type_checking(node) or in_functions:
            yield from _imports(node, in_functions)


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_follow_the_arrows(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == PUBLIC_NAMES:
        return
    own = {_part(name) for name in _imports(_parse(path), True) if name.split(".")[0] == "hybridgen" and "." in name}
    own = {name for name in own if name != "__version__"}
    wrong = own - ARROWS[part] - {part}
    assert not wrong, f"{_name(path)} may not import from {sorted(wrong)}"


def test_every_part_has_an_arrow() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {PUBLIC_NAMES}
    assert parts == set(ARROWS)


@pytest.mark.parametrize("path", sorted((PACKAGE / "spec").rglob("*.py")), ids=_name)
def test_spec_never_imports_torch_or_numpy(path: Path) -> None:
    roots = {name.split(".")[0] for name in _imports(_parse(path), True)}
    assert not roots & {"torch", "numpy"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "ops").rglob("*.py")), ids=_name)
def test_ops_never_see_a_spec(path: Path) -> None:
    assert not any(name.startswith("hybridgen.spec") for name in _imports(_parse(path), True))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_optional_packages_are_imported_only_inside_functions(path: Path) -> None:
    roots = {name.split(".")[0] for name in _imports(_parse(path), False)}
    # `hybridgen.hf` is imported by name only, by those who have transformers.
    allowed = {"triton"} if path.name in KERNEL_FILES else {"transformers"} if path.parent.name == "hf" else set()
    assert not roots & (OPTIONAL - allowed)


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").rglob("*.py")), ids=_name)
def test_command_line_loads_heavy_packages_only_inside_commands(path: Path) -> None:
    names = set(_imports(_parse(path), False))
    assert not {name.split(".")[0] for name in names} & HEAVY_FOR_CLI
    assert {_part(name) for name in names if name.startswith("hybridgen.")} <= {"cli", "errors", "__version__"}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_files_are_named_after_their_content(path: Path) -> None:
    assert path.name not in {"utils.py", "common.py", "helpers.py", "misc.py"}


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_functions_are_short(path: Path) -> None:
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
            length = node.end_lineno - node.lineno + 1 - docstring
            assert length <= 50, f"{node.name} has {length} lines besides its docstring"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_annotations_are_evaluated(path: Path) -> None:
    """jaxtyping and pydantic read annotations at run time."""
    assert "__future__.annotations" not in set(_imports(_parse(path), False))
