"""The rules between fields and between parts, reported at the field that the user most likely got wrong."""

import itertools
from collections.abc import Iterable
from typing import Any

from hybridgen.spec.base import Problem
from hybridgen.spec.ends import CodebooksHeadSpec, CodebooksInputSpec, LmHeadSpec, TokensInputSpec
from hybridgen.spec.fields import Checked
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.parts import NormSpec
from hybridgen.spec.report import Report, shown
from hybridgen.spec.tree import Node

_PROBE_WIDTHS = (735_134_400, 999_999_937)
"""Stand-ins for an unknown d_model, one rich in divisors and one prime: what fails in the same words with both of them
has nothing to do with d_model."""


def check_mixer_rules(mixer: Checked[Any], node: Node, d_model: int | None, report: Report) -> None:
    """Reports the rules between the fields of a mixer, as far as the fields they read are sound."""
    if mixer.spec is None:
        return
    faulty = set(mixer.faulty)
    for problem in _problems(mixer.spec, d_model):
        if faulty.isdisjoint((str(problem.path[0]), *problem.depends)):
            report.add(_blamed(node, problem), problem.message, problem.suggestion)
            faulty.add(str(problem.path[0]))


def _problems(spec: Any, d_model: int | None) -> Iterable[Problem]:
    if d_model is not None:
        return tuple(spec.problems(d_model))
    first, second = (tuple(spec.problems(width)) for width in _PROBE_WIDTHS)
    return [problem for problem in first if problem in second]


def _blamed(node: Node, problem: Problem) -> tuple[str | int, ...]:
    """The place to blame: the problem's own field, or one it depends on if only that came from an override."""
    place = node.place_of(problem.path)
    if "overrides" in place:
        return place
    changed = [node.place_of((name,)) for name in problem.depends if name in node.value]
    return next((other for other in changed if "overrides" in other), place)


def check_ends(source: Checked[Any], head: Checked[Any], head_node: Node, report: Report) -> None:
    """Reports a head that does not fit the input."""
    if source.spec is None or head.spec is None:
        return
    kind = head_node.place_of(("type",))
    if isinstance(head.spec, LmHeadSpec) and not isinstance(source.spec, TokensInputSpec):
        message = f"a head of type 'lm' needs an input of type 'tokens'; given '{source.spec.type}'"
        report.add(kind, message, "write input: {type: tokens, vocab_size: ...}, or head: none")
    if isinstance(head.spec, CodebooksHeadSpec) and not isinstance(source.spec, CodebooksInputSpec):
        message = f"a head of type 'codebooks' needs an input of type 'codebooks'; given '{source.spec.type}'"
        report.add(kind, message, "write input: {type: codebooks, n_codebooks: ..., vocab_size: ...}, or head: none")
    if isinstance(head.spec, CodebooksHeadSpec) and isinstance(source.spec, CodebooksInputSpec):
        read, predicted = source.spec.vocab_size, head.spec.vocab_size
        if not (source.faulty | head.faulty) & {"vocab_size"} and predicted is not None and predicted > read:
            message = f"a head cannot predict more codes than the input reads, {read}; given {predicted}"
            report.add(head_node.place_of(("vocab_size",)), message, "remove it to predict as many")


def check_causality(mixer: Checked[Any], node: Node, head: Checked[Any], report: Report) -> None:
    """Reports a mixer that sees later tokens under a head that predicts them."""
    if mixer.spec is None or head.spec is None or "causal" in mixer.faulty or getattr(mixer.spec, "causal", True):
        return
    if "causal" not in node.value:  # attention to patches, which is causal only if it says so: the ends do not fit
        return
    if isinstance(head.spec, LmHeadSpec | CodebooksHeadSpec):
        message = f"a head of type '{head.spec.type}' needs causal layers; given causal: false"
        report.add(node.place_of(("causal",)), message, "write causal: true, or head: none")


def check_norm(norm: Checked[NormSpec], node: Node, report: Report) -> None:
    """Reports the rules between the fields of the norm."""
    if norm.spec is None or not norm.faulty.isdisjoint(("type", "bias", "final_bias")) or not norm.spec.final_bias:
        return
    if norm.spec.type != "rms":
        message = f"final_bias is for norms of type 'rms'; given type '{norm.spec.type}', whose norms all have a bias"
        if norm.spec.bias is False:
            message = f"final_bias is for norms of type 'rms'; given type '{norm.spec.type}'"
        report.add(node.place_of(("final_bias",)), message, "remove it")
    elif norm.spec.bias:
        report.add(node.place_of(("final_bias",)), "bias: true gives all norms a bias, the last one too", "remove it")


def check_carry(chained: Checked[Any], node: Node, report: Report) -> None:
    """Reports the rules between the fields of `residual_attn`."""
    spec = chained.spec
    if spec is not None and spec.carry == "upstream" and spec.training != "auto":
        message = (
            f"training is for carry 'raw' or 'mean', whose scores are sums of products; given {shown(spec.training)}"
        )
        report.add(node.place_of(("training",)), message, "remove it, or write carry: raw")


_CHAINS = {
    "residual_attn": (("num_heads", "causal", "dropout"), "each adds the scores of the one before"),
    "value_residual": (("num_heads_kv", "head_dim"), "each mixes in the values of the first"),
}
"""What is handed on from attention layer to attention layer: the fields that must agree for it, and why."""


def check_chain(
    name: str, mixers: Iterable[tuple[Checked[Any], Node]], node: Node, d_model: int | None, report: Report
) -> None:
    """Reports attention layers that cannot hand on, or take, what the field `name` of the backbone hands on."""
    mixers = list(mixers)
    chain = [(mixer, place) for mixer, place in mixers if isinstance(mixer.spec, AttentionSpec)]
    if mixers and not chain and all(mixer.spec is not None for mixer, _ in mixers):
        report.add(node.path, f"{name} needs attention layers; there are none", "remove it")
    for mixer, place in chain:
        budget = getattr(mixer.spec, "context_budget", None)
        if name == "residual_attn" and budget is not None and "context_budget" not in mixer.faulty:
            message = (
                "residual_attn adds the scores of several layers, and with context_budget each keeps other keys; given "
                f"{budget}"
            )
            report.add(place.place_of(("context_budget",)), message, "write context_budget: null")
    fields, why = _CHAINS[name]
    for (before, _), (after, place) in itertools.pairwise(chain):
        for field in fields:
            if {field, "num_heads"} & (before.faulty | after.faulty):
                continue
            given, wanted = (_worked_out(mixer.spec, field, d_model) for mixer in (after, before))
            if given != wanted:
                message = (
                    f"{name} needs the same {field} in all attention layers, {why}; "
                    f"given {shown(given)} after {shown(wanted)}"
                )
                report.add(place.place_of((field,)), message, f"write {field}: {shown(wanted)}")
                return


def _worked_out(mixer: Any, field: str, d_model: int | None) -> Any:
    """A field of an attention layer, its default worked out."""
    if field == "num_heads_kv":
        return mixer.kv_heads()
    if field == "head_dim":
        return mixer.head_dim_for(_PROBE_WIDTHS[0] if d_model is None else d_model)
    return getattr(mixer, field)


def check_selection(mixers: Iterable[tuple[Checked[Any], Node]], has_residual_attn: bool, report: Report) -> None:
    """Reports the first selective layer that takes over a choice which no layer before it can give."""
    # Those that chose, each once in the order of the stack: thousands of layers may share a few.
    choosers: dict[int, AttentionSpec] = {}
    last: tuple[AttentionSpec, ...] = ()
    for mixer, node in mixers:
        spec = mixer.spec
        if not isinstance(spec, AttentionSpec) or not spec.selective or {"selective", "selection_from"} & mixer.faulty:
            continue
        source = spec.selection_from
        place, message, suggestion = ("selection_from",), "", "write selection_from: self"
        if source != "self" and has_residual_attn:
            message = f"selection_from: {source} is not for residual_attn, whose scores add up over the layers already"
        elif source == "guide" and not choosers:
            message = "selection_from: guide needs a selective layer before it that chooses; this is the first"
        elif source != "self":
            taken = last if source == "guide" else tuple(choosers.values())
            budgets = [one.context_budget for one in (*taken, spec) if one.context_budget is not None]
            if budgets and source != "guide":
                message = (
                    f"selection_from: {source} takes the choices of other layers, and with context_budget each layer "
                    f"keeps other keys; given {budgets[0]}"
                )
                suggestion = "write selection_from: self or guide, or context_budget: null"
            if any(one.alibi for one in taken):
                message = f"selection_from: {source} cannot take choices made with alibi, which fall with distance"
            for field in ("window", "logit_softcap", "protect_bos", "context_budget"):
                given, wanted = getattr(spec, field), {getattr(one, field) for one in taken} - {getattr(spec, field)}
                if wanted and not message and field not in mixer.faulty:
                    place, other = (field,), shown(wanted.pop())
                    message = (
                        f"selection_from: {source} needs the same {field} as in the selective layers whose choices it "
                        f"takes; given {shown(given)} after {other}"
                    )
                    suggestion = f"write {field}: {other}"
                    break
        if message:
            report.add(node.place_of(place), message, suggestion)
            return
        if source != "guide":
            choosers[id(spec)], last = spec, (spec,)
