"""Small models of every kind of input, with and without decoding."""

import hybridgen as hg

BACKBONE = {
    "d_model": 32,
    "n_layer": 2,
    "attn_layer_idx": [1],
    "ssm": {"type": "mamba1", "d_state": 8},
    "attn": {"num_heads": 2},
}
TOKENS = {"type": "tokens", "vocab_size": 50}
BOTH_WAYS = {"d_model": 32, "n_layer": 2, "ssm": {"type": "mamba1", "d_state": 8, "bidirectional": "v2"}}
DOCUMENTS = {
    "tokens": {"backbone": BACKBONE, "input": TOKENS, "head": {"type": "lm"}},
    "memory tokens": {"backbone": BACKBONE, "input": {**TOKENS, "memory_tokens": 2}, "head": {"type": "lm"}},
    "codebooks": {
        "backbone": BACKBONE,
        "input": {"type": "codebooks", "n_codebooks": 3, "vocab_size": 20},
        "head": {"type": "codebooks"},
    },
    "hidden": {"backbone": BACKBONE},
    "classifier": {"backbone": BACKBONE, "input": TOKENS, "head": {"type": "classifier", "num_classes": 4}},
    "bidirectional": {"backbone": BOTH_WAYS, "input": TOKENS},
    "images": {
        "backbone": BOTH_WAYS,
        "input": {"type": "patches", "image_size": 16, "patch_size": 4, "cls_token": "middle"},
        "head": {"type": "classifier", "num_classes": 4},
    },
}
DECODES = ("tokens", "memory tokens", "codebooks", "hidden")
IMAGE_TOKENS = 17


def spec_of(name, **changes):
    """A small model, with changes to its backbone."""
    document = DOCUMENTS[name]
    return hg.ModelSpec.model_validate({**document, "backbone": {**document["backbone"], **changes}})
