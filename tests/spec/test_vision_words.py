"""The words for what Vim drops in silence, for wrong items of lists, and for names of Vim and timm."""
# ruff: noqa: E501

import pytest

import hybridgen as hg
from tests.spec.documents import LONG, changed, texts_of
from tests.spec.images import ATTN, image, of

# -- what Vim drops in silence


SILENT = {
    "an unknown kind of two directions": (
        "  ssm: {type: mamba1, bidirectional: v3}",
        "model.yaml:5:38: backbone.ssm.bidirectional: must be one of none, v1, v2; given 'v3'; closest is 'v1'",
    ),
    "the same by Vim's name": (
        "  ssm: {type: mamba1, bimamba_type: v2}",
        "model.yaml:5:23: backbone.ssm.bimamba_type: unknown field of mixer type 'mamba1'; closest is 'bidirectional'",
    ),
    "a typo in a keyword": (
        "  ssm: {type: mamba1, bidirectional: v2, if_devide_out: true}",
        "model.yaml:5:42: backbone.ssm.if_devide_out: unknown field of mixer type 'mamba1'; closest is 'divide_out'",
    ),
    "division that v1 ignores": (
        "  ssm: {type: mamba1, bidirectional: v1, divide_out: true}",
        "model.yaml:5:54: backbone.ssm.divide_out: divide_out has no effect on bidirectional: v1, neither in Vim; remove it, or write bidirectional: v2",
    ),
    "an odd number of layers in pairs": (
        "  n_layer: 5\n  bidirectional: layers",
        "model.yaml:6:18: backbone.bidirectional: bidirectional: layers makes pairs of layers, so their number must be even; given 5; write n_layer: 6, or bidirectional: none",
    ),
    "a class token with a maximum over tokens": (
        "head: {type: classifier, num_classes: 10, pool: max}",
        "model.yaml:5:49: head.pool: a class token is what is classified, and input.cls_token is middle; given pool: max; remove pool, or write cls_token: none in input",
    ),
    "a typo at the top": (
        "haed: {type: classifier, num_classes: 10}",
        "model.yaml:5:1: haed: unknown field of a document; closest is 'head'",
    ),
}
HEAD = """\
input: {type: patches, image_size: 32, patch_size: 4,
        cls_token: middle}
backbone:
  d_model: 64
"""


def located(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(hg.SpecError) as caught:
        hg.load_spec("model.yaml")
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize(("line", "text"), SILENT.values(), ids=list(SILENT))
def test_what_upstream_drops_in_silence_is_a_located_fault(line, text, tmp_path, monkeypatch):
    document = f"{HEAD}{line}\n" + ("" if "n_layer" in line else "  n_layer: 4\n" if line.startswith(" ") else "")
    if not line.startswith(" "):
        document = document.replace("  d_model: 64", "  {d_model: 64, n_layer: 4}")
    (fault,) = located(document, tmp_path, monkeypatch)
    assert fault.splitlines()[0] == text
    place, row, caret = fault.splitlines()[0].split(":")[1:3], fault.splitlines()[1], fault.splitlines()[2]
    assert row == f"  {place[0]} | {document.splitlines()[int(place[0]) - 1]}"
    assert caret.index("^") - len(f"  {place[0]} | ") == int(place[1]) - 1


def test_rotation_past_a_middle_token_is_a_located_fault(tmp_path, monkeypatch):
    text = HEAD.replace("middle}", "middle, rotary: hidden}") + "  n_layer: 4\n"
    (fault,) = located(text, tmp_path, monkeypatch)
    assert fault.startswith(
        "model.yaml:2:36: input.rotary: rotary is for patches without a class token, or with one at"
    )


# -- items of lists, and names of other libraries


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (
            image(of(scan=["row", "colum"])),
            "backbone.ssm.scan[1]: must be one of row, row_reverse, column, column_reverse, zigzag, zigzag_reverse, zigzag_column, zigzag_column_reverse; given 'colum'; closest is 'column'",
        ),
        (
            image(of(scan="vimm")),
            "backbone.ssm.scan: must be one of vim, vmamba, plainmamba, a list such as [row, row_reverse] or null; given 'vimm'; closest is 'vim'",
        ),
        (
            image(of(scan="row")),
            "backbone.ssm.scan: must be one of vim, vmamba, plainmamba, a list such as [row, row_reverse] or null; given 'row'; write [row]",
        ),
        (
            image(of(scan=[])),
            "backbone.ssm.scan: must be one of vim, vmamba, plainmamba, a list of at least 1 value such as [row, row_reverse] or null; given the list []; leave it out for the default, null",
        ),
        (
            image(of(scan=["row"] * 9)),
            "backbone.ssm.scan: must be one of vim, vmamba, plainmamba, a list of at most 8 values such as [row, row_reverse] or null; given the list ['row', 'row', 'row', 'row', 'row', 'row', 'row ...; leave it out for the default, null",
        ),
        (
            image(of(scan="vim", scan_share=["cov"])),
            "backbone.ssm.scan_share[0]: must be one of conv, proj, A, D; given 'cov'; closest is 'conv'",
        ),
        (
            image(of(scan="vim", scan_share="prj")),
            "backbone.ssm.scan_share: must be a list such as [conv, proj]; given the text 'prj'; write [proj]",
        ),
        (image(image_size=[224, 1.5]), "input.image_size[1]: must be an integer of at least 1; given 1.5"),
        (
            image(image_size=[224, 65_537]),
            "input.image_size[1]: must be an integer of at least 1 and at most 65536; given 65537",
        ),
        (
            image(image_size=[1, 2, 3]),
            "input.image_size: must be an integer of at least 1 or a list of two values, each an integer of at least 1; given the list [1, 2, 3]",
        ),
        (
            image(image_size=[224]),
            "input.image_size: must be an integer of at least 1 or a list of two values, each an integer of at least 1; given the list [224]; remove the brackets",
        ),
        (image(mean=[0.5, "0.5", 0]), "input.mean[1]: must be a number; given the text '0.5'; remove the quotes"),
        (image(std=[0.5, 0, 0.5]), "input.std[1]: must be a number above 0; given 0"),
        (
            image(mean=0.5),
            "input.mean: must be null or a list, each a number; given 0.5; leave it out for the default, null",
        ),
        (
            image(backbone={"attn": {**ATTN, "alibi": True, "alibi_slopes": [1, "x", 0.5, 2]}, "attn_layer_idx": [1]}),
            "backbone.attn.alibi_slopes[1]: must be a number of at least 0; given the text 'x'",
        ),
        (
            image(channels=10**9),
            "input.channels: must be an integer of at least 1 and at most 65536; given 1000000000; leave it out for the default, 3",
        ),
        (
            image({"bidirectional": True}),
            "backbone.ssm.bidirectional: must be one of none, v1, v2; given true; write v2",
        ),
        (
            image({"bidirectional": "layers"}),
            "backbone.ssm.bidirectional: must be one of none, v1, v2; given 'layers'; write it in backbone, where bidirectional: layers makes pairs",
        ),
        (
            image(of(), backbone={"bidirectional": "v2"}),
            "backbone.bidirectional: must be one of none, layers; given 'v2'; write ssm_bidirectional: v2, which is of the mixers",
        ),
        (
            image(of(), backbone={"bidirectional": True}),
            "backbone.bidirectional: must be one of none, layers; given true; write ssm_bidirectional: v2 for mixers that read both ways, or layers for pairs of layers",
        ),
        (
            image(of(), backbone={"ssm_bimamba_type": "v2"}),
            "backbone.ssm_bimamba_type: unknown field of backbone; closest is 'ssm_bidirectional'",
        ),
        (
            image(backbone={"attn": {**ATTN, "scan": "vim"}, "attn_layer_idx": [1]}),
            "backbone.attn.scan: unknown field of mixer type 'attention'; it is a field of mixer type 'mamba1' and 'mamba2'",
        ),
        (
            image(ends={"head": "classifier"}),
            "head.num_classes: required field is missing; add num_classes: an integer of at least 0 (Number of classes)",
        ),
    ],
)
def test_words_of_the_fields(document, text):
    assert texts_of(document) == [text]


OF_MIXERS = ("bimamba_type", "if_bimamba", "if_divide_out", "if_devide_out", "init_layer_scale")
NAMES = {
    **dict.fromkeys(("bimamba_type", "if_bimamba"), ("ssm", "bidirectional")),
    **dict.fromkeys(("if_divide_out", "if_devide_out"), ("ssm", "divide_out")),
    "init_layer_scale": ("ssm", "layer_scale"),
    "if_bidirectional": ("backbone", "bidirectional"),
    "embed_dim": ("backbone", "d_model"),
    "depth": ("backbone", "n_layer"),
    "drop_path_rate": ("backbone", "drop_path"),
    "img_size": ("input", "image_size"),
    "in_chans": ("input", "channels"),
    **dict.fromkeys(("use_middle_cls_token", "use_double_cls_token", "if_cls_token"), ("input", "cls_token")),
    "if_rope": ("input", "rotary"),
    "if_abs_pos_embed": ("input", "pos_embed"),
    "pt_hw_seq_len": ("input", "rotary_grid"),
    "final_pool_type": ("head", "pool"),
}
PLACES = {"ssm": "backbone.ssm", "backbone": "backbone", "input": "input", "head": "head"}


@pytest.mark.parametrize("section", [*PLACES, "top", "attn"])
@pytest.mark.parametrize("name", NAMES)
def test_names_of_vim_are_sent_to_their_place(name, section):
    document = image(backbone={"attn": {**ATTN}})
    places = {**document, "ssm": document["backbone"]["ssm"], "attn": document["backbone"]["attn"], "top": document}
    places[section][name] = 1
    home, ours = NAMES[name]
    (text,) = texts_of(document)
    place = {**PLACES, "attn": "backbone.attn", "top": ""}[section]
    assert text.startswith(f"{place}.{name}: unknown field of ".removeprefix("."))
    elsewhere = f"; it is called '{ours}' here and belongs in {PLACES[home]}"
    assert text.endswith(f"; closest is '{ours}'" if home == section else elsewhere)


@pytest.mark.parametrize("name", ["bimamba_type", "if_bidirectional"])
def test_in_the_long_form_the_two_meanings_of_bidirectional_keep_apart(name):
    document = changed(LONG)
    document["backbone"]["blocks"]["m"]["mixer"][name] = document["backbone"][name] = 1
    in_stack, in_mixer = sorted(texts_of(document), key=lambda text: "blocks" in text)
    if name == "bimamba_type":
        assert in_stack.endswith("it is called 'bidirectional' here and belongs in a block's mixer")
        assert in_mixer.endswith("closest is 'bidirectional'")
    else:
        assert in_stack.endswith("closest is 'bidirectional'")
        assert in_mixer.endswith("it is called 'bidirectional' here and belongs in backbone")
