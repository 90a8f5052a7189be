"""`hybridgen check`: is a document valid?"""

from collections import Counter
from typing import TYPE_CHECKING

import typer

from hybridgen.cli.arguments import AllowEnv, File, Overrides

if TYPE_CHECKING:
    from hybridgen.spec import ModelSpec


def check(file: File, overrides: Overrides = None, allow_env: AllowEnv = False) -> None:
    """Check a document: one line when it is valid, every fault with its place when it is not (exit status 2)."""
    from hybridgen.spec import load_spec

    spec = load_spec(file, overrides or (), allow_env=allow_env)
    typer.echo(f"{file}: valid: {summary(spec)}")


def summary(spec: "ModelSpec") -> str:
    """Says in a few words what a model is, such as `tiny: 8 layers (6 mamba2, 2 attention), d_model 64`."""
    kinds = Counter(layer.mixer.type if layer.mixer else "mlp only" for layer in spec.backbone.layers)
    stack = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    count = spec.backbone.n_layer
    text = f"{count} layer{'s' if count > 1 else ''} ({stack}), d_model {spec.backbone.d_model}"
    ends = f"{spec.input.type} in, {'hidden' if spec.head.type == 'none' else spec.head.type} out"
    return f"{spec.name or 'unnamed'}: {text}, {ends}"
