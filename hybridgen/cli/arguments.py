"""Arguments and options that several commands share, so that they read and mean the same everywhere."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridgen.errors import HybridgenError

if TYPE_CHECKING:
    from hybridgen.model.model import HybridModel


class DType(StrEnum):
    """Number formats that weights can have."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float64 = "float64"


class Format(StrEnum):
    """Formats of saved models."""

    hybridgen = "hybridgen"
    hf = "hf"


class System(StrEnum):
    """Systems whose models can be read and written."""

    huggingface = "huggingface"
    mamba_ssm = "mamba_ssm"
    vim = "vim"
    x_transformers = "x_transformers"
    zonos = "zonos"


File = Annotated[Path, typer.Argument(help="YAML document of a model.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes in Hydra's grammar, such as backbone.n_layer=24 or +backbone.attn.window=512."),
]
AllowEnv = Annotated[bool, typer.Option("--allow-env", help="Let ${oc.env:NAME} in the document read the environment.")]
ModelDirectory = Annotated[Path, typer.Argument(help="Directory of a saved model.", show_default=False)]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, ...")]
MaxShardSize = Annotated[str, typer.Option(help="Largest file of weights, such as 500MB or 5GB.")]
SavedFormat = Annotated[
    Format, typer.Option("--format", help="What is saved: hybridgen's own directory, or one that transformers opens.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a model that was saved from Python.")]


def check_has_values(model: "HybridModel") -> None:
    """Refuses a loaded model without values.

    Raises:
        HybridgenError: If it is one.
    """
    if model.device.type == "meta":
        raise HybridgenError("on the device meta weights have no values; give --device cpu, or another that computes")


def check_replaceable(directory: Path, overwrite: bool, option: str = "-o") -> None:
    """Refuses to replace a model whose weights no command can make again, unless that is asked for."""
    from hybridgen.checkpoint_files import is_remakable

    if not overwrite and not is_remakable(directory):
        raise HybridgenError(
            f"{directory}: holds a model that was saved from Python, perhaps a trained one; name another directory "
            f"with {option}, or give --overwrite to replace it"
        )
