"""First cut: plain documents in short or long form."""

from typing import Any
from pydantic import TypeAdapter
from hybridgen.spec.ends import HeadSpec, InputSpec
from hybridgen.spec.mixers import AttentionSpec, MixerSpec
from hybridgen.spec.parts import InitSpec, MlpSpec, NormSpec
from hybridgen.spec.pattern import compress_pattern, expand_pattern
from hybridgen.spec.places import Locate


def resolve(raw: Any, locate: Locate | None = None) -> dict[str, Any]:
    backbone = dict(raw["backbone"])
    if "blocks" not in backbone:
        n = backbone["n_layer"]
        idx = backbone.pop("attn_layer_idx", [])
        idx = list(range(n)) if idx == "all" else [] if idx == "none" else idx
        if isinstance(idx, str):
            idx = list(range(n))[slice(*(int(p) if p else None for p in idx.split(":")))]
        idx = {i % n for i in idx}
        shared = backbone.pop("mlp", {})
        wide, awide = backbone.pop("d_intermediate", 0), backbone.pop("attn_mlp_d_intermediate", 0)
        ssm = {"type": "mamba1", **backbone.pop("ssm", {})}
        attn = {"type": "attention", **backbone.pop("attn", {})}
        blocks = {}
        if len(idx) < n:
            blocks["ssm"] = {"mixer": ssm, "mlp": {**shared, "d_intermediate": wide} if wide else None}
        if idx:
            blocks["attn"] = {"mixer": attn, "mlp": {**shared, "d_intermediate": awide} if awide else None}
        backbone["blocks"] = blocks
        backbone["pattern"] = compress_pattern(["attn" if i in idx else "ssm" for i in range(n)])
    names = expand_pattern(backbone["pattern"])
    n = backbone.setdefault("n_layer", len(names))
    backbone["pattern"] = compress_pattern(names * (n // len(names)))

    def dump(kind: Any, value: Any) -> Any:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        return adapter.dump_python(adapter.validate_python(value), mode="json")

    def end(value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    blocks = {}
    for name, block in backbone["blocks"].items():
        mixer, mlp = block.get("mixer"), block.get("mlp")
        blocks[name] = {"mixer": mixer and dump(MixerSpec, mixer), "mlp": mlp and dump(MlpSpec, mlp)}
    backbone |= {
        "blocks": blocks,
        "norm": dump(NormSpec, backbone.get("norm", {})),
        "init": dump(InitSpec, backbone.get("init", {})),
    }
    return {
        "name": raw.get("name"),
        "input": dump(InputSpec, end(raw.get("input", "hidden"))),
        "backbone": backbone,
        "head": dump(HeadSpec, end(raw.get("head", "none"))),
    }
