"""The model card, README.md: what the model is, what it costs, how to open it."""

from collections.abc import Iterator, Sequence

from hybridgen.costs import ModelCost, cost
from hybridgen.drawing.words import branches, head_words, input_words, place_words, short, subtitle
from hybridgen.hub.architecture import AUTO_CLASSES, CAUSAL_LM, IMAGE_CLASSIFICATION, architecture
from hybridgen.hub.seal import sealed
from hybridgen.hub.shim import INSTALL
from hybridgen.spec import ClassifierHeadSpec, ModelSpec, PatchesInputSpec, TokensInputSpec
from hybridgen.spec.pattern import expand_pattern
from hybridgen.spec.yaml_output import to_yaml

_ORIGINS = {
    "build": "The weights are freshly initialised; nothing has trained them.",
    "import": "`hybridgen import` turned the weights into this form; how they were trained is not recorded here.",
    None: "How the weights were trained is not recorded here.",
}


def card(spec: ModelSpec, dtype: str, made_by: str | None = None) -> str:
    """Returns the text of README.md, as the Hub expects it.

    Args:
        spec: The model's spec.
        dtype: Of the weights: `bfloat16`, `float16`, `float32` or `float64`.
        made_by: The command that made the weights, `build` or `import`; None where nobody knows.

    Raises:
        UnsupportedError: If transformers has no class for such a model.
    """
    sections = [
        _front_matter(spec),
        f"# {spec.name or 'A hybridgen model'}\n\n{subtitle(spec)}.\n",
        "## Layers\n\n" + "\n".join(_layers(spec)) + "\n",
        "## Cost\n\n" + "\n".join(_costs(cost(spec, dtype=dtype))) + "\n",
        _usage(spec),
        f"## Training\n\n{_ORIGINS[made_by]}\n",
        f"## Configuration\n\n```yaml\n{to_yaml(spec.document())}```\n",
    ]
    return sealed("\n".join(sections))


def _front_matter(spec: ModelSpec) -> str:
    kinds = [layer.mixer.type if layer.mixer is not None else "mlp" for layer in spec.backbone.layers]
    tags = "".join(f"- {tag}\n" for tag in ("hybridgen", *dict.fromkeys(kinds)))
    return f"---\nlibrary_name: transformers\ntags:\n{tags}pipeline_tag: {_task(spec)}\n---\n"


def _task(spec: ModelSpec) -> str:
    """The Hub's name for what the model does."""
    is_image = isinstance(spec.input, PatchesInputSpec)
    if isinstance(spec.head, ClassifierHeadSpec) and spec.head.num_classes:
        return "image-classification" if is_image else "text-classification"
    if architecture(spec) == CAUSAL_LM:
        return "text-generation"
    return "image-feature-extraction" if is_image else "feature-extraction"


def _layers(spec: ModelSpec) -> Iterator[str]:
    """One row per block, between the two ends of the model."""
    names = expand_pattern(spec.backbone.pattern)
    yield f"- Input: {', '.join(input_words(spec))}"
    yield f"- Order of the blocks: `{spec.backbone.pattern}`"
    yield f"- Output: {', '.join(head_words(spec))}"
    yield ""
    yield from _table(("block", "layers", "number", "consists of"))
    for name, block in spec.backbone.blocks.items():
        places = [index for index, other in enumerate(names) if other == name]
        parts = [f"{part.title} ({', '.join(part.facts)})" for part in branches(block, spec.backbone)]
        yield f"| `{name}` | {place_words(places)} | {len(places)} | {'; '.join(parts)} |"


def _costs(found: ModelCost) -> Iterator[str]:
    setting, values, parameters = found.setting, found.metrics(), found.total.parameters
    tokens = f"{setting.seq_len:,} tokens"
    yield f"Worked out from the configuration by `hybridgen cost`, for one row of {tokens} in {setting.dtype}."
    yield ""
    yield from _table(("", ""))
    yield f"| parameters | {parameters.total:,} |"
    yield f"| of these in the layers | {parameters.non_embedding:,} |"
    yield f"| bytes of weights | {_size(values['weight_bytes'])} |"
    yield f"| FLOPs per token, reading | {short(values['prefill_flops'], 'G')} |"
    if found.has_state:
        yield f"| FLOPs of one more token | {short(values['decode_flops'], 'G')} |"
    yield f"| FLOPs per token, training | {short(values['train_flops'], 'G')} |"
    if found.has_state:
        yield f"| bytes of decoding state | {_size(values['state_bytes'])} |"


def _table(headings: Sequence[str]) -> tuple[str, str]:
    return f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _usage(spec: ModelSpec) -> str:
    auto = AUTO_CLASSES[architecture(spec)]
    return f"""## How to open it

`{INSTALL}`, then, with the name of this repository or of a directory with its files:

```python
import hybridgen.hf  # makes the classes known to transformers
from transformers import {auto}

model = {auto}.from_pretrained(name)
{_call(spec)}
```

Without the import, `{auto}.from_pretrained(name, trust_remote_code=True)` does it; the package is needed all the same.

As a model of hybridgen itself, from a directory:

```python
import hybridgen as hg

model = hg.load(directory)
```
"""


def _call(spec: ModelSpec) -> str:
    """A line that runs the model."""
    name = architecture(spec)
    if name == CAUSAL_LM:
        return "ids = model.generate(input_ids, max_new_tokens=64)"
    if name == IMAGE_CLASSIFICATION:
        return "outputs = model(pixel_values=images)"
    named = "input_ids=input_ids" if isinstance(spec.input, TokensInputSpec) else "inputs_embeds=hidden_states"
    return f"outputs = model({named})"
