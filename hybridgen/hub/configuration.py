"""The JSON files of a directory that transformers opens."""

from collections.abc import Mapping
from typing import Any

from hybridgen import __version__
from hybridgen.hub.architecture import AUTO_CLASSES, BASE, architecture
from hybridgen.spec import ClassifierHeadSpec, LmHeadSpec, ModelSpec, PatchesInputSpec, TokensInputSpec

MODEL_TYPE = "hybridgen"
GENERATION = "generation_config.json"
SHIM_MODULE = "modeling_hybridgen"
LABELS = ("id2label", "label2id")
SETTINGS = (*LABELS, "problem_type", "bos_token_id", "eos_token_id", "pad_token_id")
"""Fields of config.json that no spec holds, and that one save hands on to the next."""


def is_hub_config(config: Mapping[str, Any] | None) -> bool:
    """Tells whether a config.json is that of one of our models for transformers, whoever wrote it."""
    if config is None or config.get("model_type") != MODEL_TYPE or "spec" not in config:
        return False
    # Our own format says `format`; beside what transformers writes it may be a field that somebody added.
    return "format" not in config or ("architectures" in config and config["format"] != MODEL_TYPE)


def auto_map(name: str) -> dict[str, str]:
    """Returns where `trust_remote_code=True` finds the classes of a directory whose model is of the class `name`."""
    classes = {"AutoConfig": "HybridgenConfig", "AutoModel": BASE, AUTO_CLASSES[name]: name}
    return {auto: f"{SHIM_MODULE}.{ours}" for auto, ours in classes.items()}


def config_document(spec: ModelSpec, dtype: str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns what config.json holds.

    Widths, depths and the like stand in the spec alone, from which `HybridgenConfig` reads them. Beside it stand what
    transformers reads before it has the class, and what no spec holds.

    Args:
        spec: The model's spec.
        dtype: Of the weights: `bfloat16`, `float16`, `float32` or `float64`.
        settings: Values of `SETTINGS`, such as names of classes; others are left out.

    Raises:
        UnsupportedError: If transformers has no class for such a model.
    """
    name = architecture(spec)
    known = {key: value for key, value in (settings or {}).items() if key in SETTINGS and value is not None}
    labels = {key: known.pop(key, None) for key in LABELS}
    return {
        "architectures": [name],
        "model_type": MODEL_TYPE,
        "dtype": dtype,
        "auto_map": auto_map(name),
        "hybridgen_version": __version__,
        "tie_word_embeddings": isinstance(spec.head, LmHeadSpec) and spec.head.tie_embeddings,
        **_labels(spec, labels["id2label"]),
        **known,
        "spec": spec.document(),
    }


def _labels(spec: ModelSpec, names: object) -> dict[str, Any]:
    """The names of the classes; empty ones for pooled features, as transformers takes absent ones for two classes."""
    is_classifier = isinstance(spec.head, ClassifierHeadSpec)
    if not is_classifier and not isinstance(spec.input, PatchesInputSpec):
        return {}
    count = spec.head.num_classes if isinstance(spec.head, ClassifierHeadSpec) else 0
    given = {str(key): value for key, value in names.items()} if isinstance(names, Mapping) else {}
    keys = [str(index) for index in range(count)]
    # Names of a head of another size would make transformers think that it has that many classes.
    found = {key: given[key] for key in keys} if given.keys() == set(keys) else {key: f"LABEL_{key}" for key in keys}
    return {"id2label": found, "label2id": {label: int(key) for key, label in found.items()}}


def generation_document(spec: ModelSpec) -> dict[str, Any] | None:
    """Returns what generation_config.json holds, or None for a model that is no language model.

    The table of embeddings has more rows than there are tokens; the logits of the rest are never to be picked.
    """
    if not isinstance(spec.input, TokensInputSpec) or not isinstance(spec.head, LmHeadSpec):
        return None
    padding = list(range(spec.input.vocab_size, spec.input.padded_vocab_size()))
    return {"suppress_tokens": padding} if padding else {"_from_model_config": True}
