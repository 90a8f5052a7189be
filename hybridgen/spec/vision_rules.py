"""The rules of models that read images, and of mixers that read their tokens in more orders than one."""

from collections.abc import Iterable
from typing import Any

from hybridgen.spec.ends import ClassifierHeadSpec, CodebooksHeadSpec, LmHeadSpec, PatchesInputSpec
from hybridgen.spec.fields import Checked
from hybridgen.spec.report import Report
from hybridgen.spec.scans import ScanningSpec
from hybridgen.spec.tree import Node


def check_patches(source: Checked[Any], node: Node, d_model: int | None, report: Report) -> None:
    """Reports the rules between the fields of an input of images, and with the width of the stack."""
    spec = source.spec
    if not isinstance(spec, PatchesInputSpec):
        return
    faulty = set(source.faulty)
    for problem in spec.problems():
        if faulty.isdisjoint((str(problem.path[0]), *problem.depends)):
            report.add(node.place_of(problem.path), problem.message, problem.suggestion)
            faulty.add(str(problem.path[0]))
    if spec.rotary != "none" and "rotary" not in faulty and d_model is not None and d_model % 4:
        message = (
            f"rotary turns pairs of channels by row and by column, so d_model must be a multiple of 4; given {d_model}"
        )
        report.add(node.place_of(("rotary",)), message, "write rotary: none, or another d_model")


def check_pool(source: Checked[Any], head: Checked[Any], node: Node, report: Report) -> None:
    """Reports a classifier that cannot pool what the model reads."""
    spec = head.spec
    if not isinstance(spec, ClassifierHeadSpec) or source.spec is None or {"cls_token", "type"} & source.faulty:
        return
    if spec.pool is None or "pool" in head.faulty:
        return
    cls_token = source.spec.cls_token if isinstance(source.spec, PatchesInputSpec) else "none"
    place = node.place_of(("pool",))
    if spec.pool == "cls" and cls_token == "none":
        is_image = isinstance(source.spec, PatchesInputSpec)
        suggestion = (
            "write cls_token: middle in input, or pool: mean" if is_image else "write pool: mean, or pool: last"
        )
        report.add(place, "pool: cls needs a class token; there is none", suggestion)
    if spec.pool != "cls" and cls_token != "none":
        message = f"a class token is what is classified, and input.cls_token is {cls_token}; given pool: {spec.pool}"
        report.add(place, message, "remove pool, or write cls_token: none in input")


def check_scan(mixer: Checked[Any], node: Node, source: Checked[Any], head: Checked[Any], report: Report) -> None:
    """Reports a scan that does not fit what the model reads, or the head that predicts from it."""
    spec = mixer.spec
    if not isinstance(spec, ScanningSpec) or {"bidirectional", "scan"} & mixer.faulty:
        return
    field = "bidirectional" if spec.scan is None else "scan"
    orders = spec.bidirectional if spec.scan is None else f"[{', '.join(spec.scan)}]"
    place, given = node.place_of((field,)), f"{field}: {orders}"
    if isinstance(head.spec, LmHeadSpec | CodebooksHeadSpec) and not spec.is_causal():
        message = (
            f"a head of type '{head.spec.type}' needs causal layers, and this one reads later tokens; given {given}"
        )
        report.add(place, message, "remove it, or write head: none")
    plane = [order for order in spec.directions() if not order.startswith("row")]
    if plane and source.spec is not None and not isinstance(source.spec, PatchesInputSpec):
        message = f"the order {plane[0]} is for patches of images; the input is of type '{source.spec.type}'"
        report.add(place, message, "write scan: [row, row_reverse], or input: {type: patches, ...}")


def check_pairs(
    checked: Checked[Any],
    fields: dict[str, Node],
    count: int | None,
    head: Checked[Any],
    mixers: Iterable[Checked[Any]],
    report: Report,
) -> None:
    """Reports what does not go with layers that work in pairs."""
    settings, merge = checked.spec, fields.get("bidirectional_merge")
    if settings is None or {"bidirectional", "bidirectional_merge", "norm_placement", "layer_dropout"} & checked.faulty:
        return
    if settings.bidirectional != "layers":
        if merge is not None and settings.bidirectional_merge != "sum":
            message = "bidirectional_merge is for pairs of layers"
            report.add(merge.path, message, "write bidirectional: layers, or remove it")
        return
    place = fields["bidirectional"].path
    if count is not None and count % 2:
        message = f"bidirectional: layers makes pairs of layers, so their number must be even; given {count}"
        even = f"a pattern of {count + 1} layers" if "pattern" in fields else f"n_layer: {count + 1}"
        report.add(place, message, f"write {even}, or bidirectional: none")
    if isinstance(head.spec, LmHeadSpec | CodebooksHeadSpec):
        message = f"a head of type '{head.spec.type}' needs causal layers, and every second layer reads backwards"
        report.add(place, message, "write bidirectional: none, or head: none")
    carries = ["residual_attn"] if "residual_attn" in fields else []
    carries += ["value_residual"] if settings.value_residual != "none" else []
    shares = any(getattr(mixer.spec, "selection_from", "self") != "self" for mixer in mixers)
    if carries or shares:
        message = (
            f"what {carries[0] if carries else 'selection_from'} hands on from layer to layer has no place in pairs"
        )
        report.add(place, message, "write bidirectional: none")
    if settings.layer_dropout:
        message = f"layers in pairs cannot be left out one by one; given layer_dropout: {settings.layer_dropout}"
        report.add(fields["layer_dropout"].path, message, "write drop_path instead, or bidirectional: none")
    if settings.norm_placement == "residual":
        message = "pairs add up their streams before the norm, which norm_placement: residual has behind each branch"
        report.add(place, message, "write norm_placement: pre")
