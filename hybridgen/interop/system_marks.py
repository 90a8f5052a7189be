"""Whose a configuration is, by its keys. Loads no torch, so that commands that read no weights need not wait for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybridgen.errors import CheckpointError
from hybridgen.interop.huggingface_types import MODEL_TYPES
from hybridgen.interop.vim_arguments import is_config as is_vim

NAMES = ("huggingface", "mamba_ssm", "vim", "x_transformers", "zonos")

# Top-level keys of a document; a file with any of the last two is one, whatever else it holds.
_DOCUMENT = frozenset({"name", "input", "backbone", "head", "defaults"})
_ENDS = frozenset({"input", "head"})
_ZONOS = frozenset({"prefix_conditioner", "eos_token_id", "masked_token_id", "pad_vocab_to_multiple_of"})


def whose(config: Mapping[str, Any], place: Path, file: Path) -> str:
    """Tells whose configuration this is.

    Args:
        config: The configuration.
        place: The directory or file that the user named, for messages.
        file: Where the configuration stands, for messages.

    Raises:
        CheckpointError: If it is nobody's that can be imported.
    """
    if config.get("model_type") == "hybridgen" and "spec" not in config:
        raise CheckpointError(f"{file}: has no spec, so the model is unknown; save the model again")
    if "hybridgen" in (config.get("format"), config.get("model_type")):
        raise CheckpointError(f"{place}: is a model saved by hybridgen already; load it as it is")
    if "model_type" in config or "architectures" in config:
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in MODEL_TYPES:
            raise _hugging_face(config, place, file)
        return "huggingface"
    if "attn_layers" in config:
        return "x_transformers"
    if is_vim(config):
        return "vim"
    if "backbone" in config or config.keys() & {"attn_mlp_d_intermediate", "norm_epsilon"}:
        return "zonos"
    if config.keys() & {"d_model", "embed_dim", "n_layer", "vocab_size"}:
        return "mamba_ssm"
    raise CheckpointError(f"{file}: is the configuration of none of {', '.join(NAMES)}")


def is_document(config: Mapping[str, Any], file: Path) -> bool:
    """Whether a JSON file is one of our documents rather than another system's configuration.

    Some are both: mamba-ssm's flat configuration of a language model is a document too, and means the same. A file
    with nothing but `backbone` is a document, unless it is called config.json, as Zonos calls its own.
    """
    keys = config.keys()
    if keys & _ENDS or "defaults" in keys:
        return True
    if "backbone" in keys:
        return not keys & _ZONOS and file.name != "config.json" and keys <= _DOCUMENT
    return {"d_model", "n_layer", "vocab_size"} <= keys and not keys & {"attn_layers", "model_type", "architectures"}


def _hugging_face(config: Mapping[str, Any], place: Path, file: Path) -> CheckpointError:
    kind = config.get("model_type") or config.get("architectures")
    noun = "configuration" if place == file else "directory"
    words = f"{place}: is a Hugging Face {noun} ({kind}); what can be imported is the model types"
    return CheckpointError(f"{words} {', '.join(MODEL_TYPES)}, and models of {', '.join(NAMES[1:])}")
