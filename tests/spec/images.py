"""Documents of image models to test with: one, and ways to change it."""

import copy

from tests.spec.documents import IMAGE

LM = {"input": {"type": "tokens", "vocab_size": 100}, "backbone": {"d_model": 64, "n_layer": 4}, "head": "lm"}
ATTN = {"num_heads": 4}
PAIRS = {"bidirectional": "layers"}
NO_HEAD, TOKENS = {"head": "none"}, {"input": {"type": "tokens", "vocab_size": 100}}


def image(ssm=None, head=None, document=IMAGE, backbone=None, ends=None, **source):
    """A copy of a document with other fields in its parts; a value of `...` removes one."""
    document = copy.deepcopy(document)
    document |= copy.deepcopy(ends or {})
    parts = [(document["backbone"], backbone), (document["backbone"].setdefault("ssm", {}), ssm)]
    for part, fields in [*parts, (document["input"], source), (document.get("head"), head)]:
        for key, value in (fields or {}).items():
            if value is ...:
                part.pop(key, None)
            else:
                part[key] = value
    return document


def of(**fields):
    """The fields of the mixers, without the `bidirectional` of the document."""
    return {"bidirectional": ..., **fields}
