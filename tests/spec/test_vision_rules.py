"""The rules of models that read images and of mixers with several directions: words, place, and what they advise."""
# ruff: noqa: E501

import pytest

from hybridgen.spec import ModelSpec
from tests.spec.documents import LONG, changed, texts_of
from tests.spec.images import ATTN, LM, NO_HEAD, PAIRS, TOKENS, image, of

# what is wrong, its text, and the document again with the advice followed
CASES = {
    # the scan of a mixer
    "scan beside bidirectional": (
        image({"scan": "vmamba"}),
        "backbone.ssm.scan: bidirectional: v2 has its scan, [row, row_reverse]; given scan besides; remove it, or write bidirectional: none",
        [image(), image({"bidirectional": "none", "scan": "vmamba"})],
    ),
    "an order twice": (
        image(of(scan=["row", "column", "row"])),
        "backbone.ssm.scan: an order can be in scan only once; given row twice; remove one of them",
        [image(of(scan=["row", "column"]))],
    ),
    "scan_share beside bidirectional": (
        image({"scan_share": ["conv"]}),
        "backbone.ssm.scan_share: bidirectional: v2 says itself what is shared; given scan_share besides; remove it",
        [image()],
    ),
    "scan_share of one direction": (
        image(of(scan_share=["conv"])),
        "backbone.ssm.scan_share: scan_share needs scan with two orders or more; there is one direction; remove it, or write scan: vim",
        [image(of()), image(of(scan_share=["conv"], scan="vim"))],
    ),
    "a part shared twice": (
        image(of(scan="vim", scan_share=["conv", "A", "conv"])),
        "backbone.ssm.scan_share: a part can be in scan_share only once; remove one of them",
        [image(of(scan="vim", scan_share=["conv", "A"]))],
    ),
    "divide_out of v1": (
        image({"bidirectional": "v1", "divide_out": True}),
        "backbone.ssm.divide_out: divide_out has no effect on bidirectional: v1, neither in Vim; remove it, or write bidirectional: v2",
        [image({"bidirectional": "v1"}), image({"divide_out": True})],
    ),
    "divide_out of one direction": (
        image(of(divide_out=True)),
        "backbone.ssm.divide_out: divide_out needs several directions, there is one; remove it, or write bidirectional: v2",
        [image(of()), image({"divide_out": True})],
    ),
    "backward_dt_init of one direction": (
        image(of(backward_dt_init="same_as_forward")),
        "backbone.ssm.backward_dt_init: backward_dt_init needs a further direction with projections of its own; there is none; remove it, or write bidirectional: v2",
        [image(of()), image({"backward_dt_init": "same_as_forward"})],
    ),
    "backward_dt_init of shared projections": (
        image(of(scan="vim", scan_share=["proj"], backward_dt_init="same_as_forward")),
        "backbone.ssm.backward_dt_init: backward_dt_init needs a further direction with projections of its own; there is none; remove it, or write bidirectional: v2",
        [image(of(scan="vim", scan_share=["proj"])), image({"backward_dt_init": "same_as_forward"})],
    ),
    "backward_dt_init of v1": (
        image({"bidirectional": "v1", "backward_dt_init": "same_as_forward"}),
        "backbone.ssm.backward_dt_init: backward_dt_init needs a further direction with projections of its own; there is none; remove it, or write bidirectional: v2",
        [image({"bidirectional": "v1"}), image({"backward_dt_init": "same_as_forward"})],
    ),
    # a scan, and what the model reads and predicts
    "two directions under a head that predicts": (
        image({"bidirectional": "v2"}, document=LM),
        "backbone.ssm.bidirectional: a head of type 'lm' needs causal layers, and this one reads later tokens; given bidirectional: v2; remove it, or write head: none",
        [LM, image({"bidirectional": "v2"}, document=LM, ends=NO_HEAD)],
    ),
    "one direction, backwards, under a head that predicts": (
        image({"scan": ["row_reverse"]}, document=LM),
        "backbone.ssm.scan: a head of type 'lm' needs causal layers, and this one reads later tokens; given scan: [row_reverse]; remove it, or write head: none",
        [LM, image({"scan": ["row_reverse"]}, document=LM, ends=NO_HEAD)],
    ),
    "columns of a sequence": (
        image({"scan": ["row", "column"]}, document=LM, ends=NO_HEAD),
        "backbone.ssm.scan: the order column is for patches of images; the input is of type 'tokens'; write scan: [row, row_reverse], or input: {type: patches, ...}",
        [image({"scan": ["row", "row_reverse"]}, document=LM, ends=NO_HEAD)],
    ),
    # the input
    "stride": (
        image(patch_size=4, stride=5),
        "input.stride: stride must be at most patch_size = 4, or pixels are lost; given 5",
        [image(patch_size=4, stride=4)],
    ),
    "an image smaller than a patch": (
        image(image_size=[3, 32]),
        "input.image_size: the height of an image must be at least patch_size = 4; given 3",
        [image(image_size=[4, 32])],
    ),
    "a width between two patches": (
        image(image_size=[32, 33], stride=2),
        "input.image_size: the width of an image must be patch_size plus a multiple of the stride, 4 + n * 2; given 33; write 32 or 34",
        [image(image_size=[32, 32], stride=2), image(image_size=[32, 34], stride=2)],
    ),
    "patches without end": (
        image(image_size=65_536, patch_size=1),
        "input.image_size: an image can have at most 16777216 patches; given 65536 * 65536; write a larger patch_size, or a smaller image_size",
        [image(image_size=65_536, patch_size=16), image(image_size=4096, patch_size=1)],
    ),
    "patches without end by their stride": (
        image(image_size=65_536, patch_size=16, stride=1),
        "input.image_size: an image can have at most 16777216 patches; given 65521 * 65521; write a larger stride, or a smaller image_size",
        [image(image_size=65_536, patch_size=16, stride=16)],
    ),
    "rotation past a middle token": (
        image(rotary="hidden"),
        "input.rotary: rotary is for patches without a class token, or with one at the head; given cls_token: middle, which would take the place of a patch; write cls_token: head, or rotary: none",
        [image(rotary="hidden", cls_token="head"), image(rotary="none")],
    ),
    "rotation past a double token": (
        image(rotary="residual", cls_token="double"),
        "input.rotary: rotary is for patches without a class token, or with one at the head; given cls_token: double, which would take the place of a patch; write cls_token: head, or rotary: none",
        [image(rotary="residual", cls_token="head")],
    ),
    "rotation of a width that has no four parts": (
        image(rotary="hidden", cls_token="head", backbone={"d_model": 66}),
        "input.rotary: rotary turns pairs of channels by row and by column, so d_model must be a multiple of 4; given 66; write rotary: none, or another d_model",
        [image(cls_token="head", backbone={"d_model": 66}), image(rotary="hidden", cls_token="head")],
    ),
    "a grid for no rotation": (
        image(rotary_grid=16),
        "input.rotary_grid: rotary_grid needs rotary, nothing is rotated without it; given 16; remove it, or write rotary: hidden",
        [image(), image(rotary_grid=16, rotary="hidden", cls_token="head")],
    ),
    "mean": (
        image(mean=[0.5]),
        "input.mean: mean must have one number per channel, 3; given 1",
        [image(mean=[0.5, 0.5, 0.5]), image(mean=[0.5], channels=1)],
    ),
    "std": (
        image(std=[0.5, 0.5, 0.5], channels=1),
        "input.std: std must have one number per channel, 1; given 3",
        [image(std=[0.5], channels=1)],
    ),
    # the head
    "a class token and another pool": (
        image(head={"pool": "max"}),
        "head.pool: a class token is what is classified, and input.cls_token is middle; given pool: max; remove pool, or write cls_token: none in input",
        [image(), image(head={"pool": "max"}, cls_token="none")],
    ),
    "no class token to pool": (
        image(head={"pool": "cls"}, cls_token="none"),
        "head.pool: pool: cls needs a class token; there is none; write cls_token: middle in input, or pool: mean",
        [image(head={"pool": "cls"}), image(head={"pool": "mean"}, cls_token="none")],
    ),
    "no class token among tokens": (
        image(head={"pool": "cls"}, ends=TOKENS),
        "head.pool: pool: cls needs a class token; there is none; write pool: mean, or pool: last",
        [image(head={"pool": "mean"}, ends=TOKENS), image(head={"pool": "last"}, ends=TOKENS)],
    ),
    # pairs of layers
    "an odd number of layers in pairs": (
        image(of(), backbone={**PAIRS, "n_layer": 5}),
        "backbone.bidirectional: bidirectional: layers makes pairs of layers, so their number must be even; given 5; write n_layer: 6, or bidirectional: none",
        [image(of(), backbone={**PAIRS, "n_layer": 6}), image(of(), backbone={"bidirectional": "none", "n_layer": 5})],
    ),
    "an odd pattern in pairs": (
        changed(LONG, **PAIRS),
        "backbone.bidirectional: bidirectional: layers makes pairs of layers, so their number must be even; given 9; write a pattern of 10 layers, or bidirectional: none",
        [changed(LONG, **PAIRS, pattern="(m*3 a)*2 f*2"), LONG],
    ),
    "merging what is no pair": (
        image(backbone={"bidirectional_merge": "mean"}),
        "backbone.bidirectional_merge: bidirectional_merge is for pairs of layers; write bidirectional: layers, or remove it",
        [image(backbone={**PAIRS, "bidirectional_merge": "mean"}), image()],
    ),
    "pairs under a head that predicts": (
        image(document=LM, backbone=PAIRS),
        "backbone.bidirectional: a head of type 'lm' needs causal layers, and every second layer reads backwards; write bidirectional: none, or head: none",
        [LM, image(document=LM, backbone=PAIRS, ends=NO_HEAD)],
    ),
    "scores that pairs would hand on": (
        image(backbone={**PAIRS, "attn": ATTN, "attn_layer_idx": "all", "residual_attn": True}),
        "backbone.bidirectional: what residual_attn hands on from layer to layer has no place in pairs; write bidirectional: none",
        [image(backbone={"bidirectional": "none", "attn": ATTN, "attn_layer_idx": "all", "residual_attn": True})],
    ),
    "values that pairs would hand on": (
        image(backbone={**PAIRS, "attn": ATTN, "attn_layer_idx": "all", "value_residual": "half"}),
        "backbone.bidirectional: what value_residual hands on from layer to layer has no place in pairs; write bidirectional: none",
        [image(backbone={"attn": ATTN, "attn_layer_idx": "all", "value_residual": "half"})],
    ),
    "choices that pairs would hand on": (
        image(
            document=LM,
            ends=NO_HEAD,
            backbone={
                **PAIRS,
                "attn_layer_idx": "all",
                "attn": {**ATTN, "selective": True, "selection_from": "accumulate"},
            },
        ),
        "backbone.bidirectional: what selection_from hands on from layer to layer has no place in pairs; write bidirectional: none",
        [
            image(
                document=LM,
                ends=NO_HEAD,
                backbone={"attn_layer_idx": "all", "attn": {**ATTN, "selective": True, "selection_from": "accumulate"}},
            )
        ],
    ),
    "leaving out one of a pair": (
        image(backbone={**PAIRS, "layer_dropout": 0.5}),
        "backbone.layer_dropout: layers in pairs cannot be left out one by one; given layer_dropout: 0.5; write drop_path instead, or bidirectional: none",
        [image(backbone={**PAIRS, "drop_path": 0.5}), image(backbone={"layer_dropout": 0.5})],
    ),
    "a norm behind the sum of a pair": (
        image(backbone={**PAIRS, "norm_placement": "residual"}),
        "backbone.bidirectional: pairs add up their streams before the norm, which norm_placement: residual has behind each branch; write norm_placement: pre",
        [image(backbone={**PAIRS, "norm_placement": "pre"})],
    ),
}


@pytest.mark.parametrize(("document", "text", "followed"), CASES.values(), ids=list(CASES))
def test_a_rule_has_words_and_a_place_and_its_advice_is_accepted(document, text, followed):
    assert texts_of(document) == [text]
    for better in followed:
        ModelSpec.model_validate(better)


@pytest.mark.parametrize("kind", ["mamba1", "mamba2"])
def test_both_kinds_of_mixers_have_the_rules_of_a_scan(kind):
    fields = {"type": kind, "divide_out": True, "bidirectional": "none", "scan_share": ["conv"]}
    assert [text.split(":")[0] for text in texts_of(image(fields))] == [
        "backbone.ssm.divide_out",
        "backbone.ssm.scan_share",
    ]
