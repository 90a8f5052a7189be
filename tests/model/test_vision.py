"""Image models: tokens in front of the stack, pooling behind it, and what timm's users call."""

import inspect

import pytest
import torch

import hybridgen as hg
from hybridgen.cli.classify import classify
from hybridgen.errors import HybridgenError, ShapeError, SpecError, UnsupportedError
from hybridgen.layers.rotary_grid import grid_table, turned
from hybridgen.layers.span import Grid
from hybridgen.model.vision import VisionModel
from hybridgen.vision import create_model, read_picture

MAMBA = {"type": "mamba1", "d_state": 4}


def document(cls_token="none", image_size=16, head=None, backbone=None, **source):
    return {
        "input": {"type": "patches", "image_size": image_size, "patch_size": 4, "cls_token": cls_token, **source},
        "backbone": {"d_model": 16, "n_layer": 4, "ssm": {**MAMBA, "bidirectional": "v2"}, **(backbone or {})},
        "head": {"type": "classifier", "num_classes": 5, **(head or {})},
    }


def model_of(*args, **kwargs) -> VisionModel:
    return create_model(document(*args, **kwargs)).eval()


def pixels(*size, batch=2, channels=3):
    return torch.randn(batch, channels, *(size or (16, 16)), generator=torch.Generator().manual_seed(1))


def by_hand(model, images):
    """The tokens in front of the stack, patch by patch."""
    spec = model.spec.input
    (rows, columns), step, size = spec.grid(), spec.step(), spec.patch_size
    weight, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    tokens = []
    for row in range(rows):
        for column in range(columns):
            patch = images[:, :, row * step : row * step + size, column * step : column * step + size]
            tokens.append(torch.einsum("bchw,dchw->bd", patch, weight) + bias)
    batch = images.shape[0]
    match spec.cls_token:
        case "head":
            tokens.insert(0, model.cls_token[0].expand(batch, -1))
        case "middle":
            tokens.insert(len(tokens) // 2, model.cls_token[0].expand(batch, -1))
        case "double":
            tokens = [model.cls_token_head[0].expand(batch, -1), *tokens, model.cls_token_tail[0].expand(batch, -1)]
    sequence = torch.stack(tokens, dim=1)
    return sequence if model.pos_embed is None else sequence + model.pos_embed


@pytest.mark.parametrize("cls_token", ["none", "head", "middle", "double"])
@pytest.mark.parametrize("source", [{}, {"stride": 2}, {"image_size": [12, 20]}, {"pos_embed": False}])
def test_tokens_and_class_are_those_made_by_hand(cls_token, source):
    model = model_of(cls_token, **source)
    images = pixels(*model.source.size())
    hidden = model.backbone(by_hand(model, images))
    torch.testing.assert_close(model.forward_features(images), hidden, atol=1e-5, rtol=1e-5)
    length = model.source.length()
    assert hidden.shape[1] == length
    vector = {
        "none": hidden.mean(1),
        "head": hidden[:, 0],
        "middle": hidden[:, (length - 1) // 2],
        "double": (hidden[:, 0] + hidden[:, -1]) / 2,
    }[cls_token]
    logits = vector @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "last", "max", "all"])
def test_pools(pool):
    model = model_of(head={"pool": pool})
    hidden = model.forward_features(pixels())
    logits = model.head(hidden)
    expected = {
        "mean": model.head(hidden.mean(1)),
        "last": logits[:, -1],
        "max": logits.amax(1),  # of the logits, not of the hidden states
        "all": logits,
    }[pool]
    torch.testing.assert_close(model(pixels()), expected)


@pytest.mark.parametrize("pool", ["mean", "last", "max"])
def test_classifier_of_tokens_does_not_see_padding(pool):
    spec = {
        "input": {"type": "tokens", "vocab_size": 50},
        "backbone": {"d_model": 16, "n_layer": 2, "attn_layer_idx": [1], "attn": {"num_heads": 2}, "ssm": MAMBA},
        "head": {"type": "classifier", "num_classes": 3, "pool": pool},
    }
    model = hg.build(hg.ModelSpec.model_validate(spec)).eval()
    ids = torch.randint(0, 50, (1, 5))
    alone = model(ids)
    for left in (0, 1, 4):
        padded = torch.nn.functional.pad(ids, (left, 4 - left))
        mask = torch.zeros(1, 9, dtype=torch.bool)
        mask[:, left : left + 5] = True
        torch.testing.assert_close(model(padded, mask=mask), alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(UnsupportedError, match="takes no state"):
        model(ids, state=model.init_state(1, 8))
    with pytest.raises(ShapeError, match="given T = 0"):
        model(ids[:, :0])
    with pytest.raises(ShapeError, match="takes no seq_idx"):
        model(ids, seq_idx=torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(ShapeError, match="takes no num_last_tokens"):
        model(ids, num_last_tokens=1)


def test_no_classes_are_features():
    model = model_of("head", head={"num_classes": 0})
    images = pixels()
    assert model.head is None
    assert torch.equal(model(images), model.forward_features(images)[:, 0])
    plain = create_model({**document(), "head": "none"}).eval()
    assert torch.equal(plain(images), plain.forward_features(images))
    assert plain.num_classes == 0


def test_wrong_images_are_refused_with_words():
    model = model_of("middle")
    with pytest.raises(ShapeError, match=r"\(B, 3, 16, 16\) in torch.float32; given \(2, 1, 16, 16\)"):
        model(pixels(channels=1))
    with pytest.raises(ShapeError, match=r"given \(3, 16, 16\)"):
        model(pixels()[0])
    with pytest.raises(ShapeError, match=r"of torch\.float64"):
        model(pixels().double())
    with pytest.raises(ShapeError, match=r"given 20 x 16: resize them, or the model with hybridgen\.vision"):
        model(pixels(20, 16))
    with pytest.raises(ShapeError, match=r"4 \+ n \* 4 pixels; given 16 x 18"):
        model_of(pos_embed=False)(pixels(16, 18))
    with pytest.raises(UnsupportedError, match="no decoding state"):
        model.init_state(1, 10)
    with pytest.raises(HybridgenError, match="needs a model of images"):
        create_model({"backbone": {"d_model": 16, "n_layer": 1, "ssm": MAMBA}})


def test_any_size_without_position_embeddings():
    model = model_of("middle", pos_embed=False, rotary="none")
    assert model(pixels(8, 24)).shape == (2, 5)
    assert torch.equal(model.forward_features(pixels(8, 24))[:, 6], model.forward_head(
        model.forward_features(pixels(8, 24)), pre_logits=True))  # fmt: skip


def test_rotation_by_row_and_column():
    """Against the formula written out for each token and pair of channels (facts of Vim, section 1.5)."""
    grid, dim, unit = Grid(3, 4, (0,)), 8, 14
    x = torch.randn(2, 13, dim, dtype=torch.float64)
    found = turned(x, grid_table(grid, dim, unit, torch.float64, x.device))
    assert torch.equal(found[:, 0], x[:, 0])
    for token in range(12):
        row, column = divmod(token, 4)
        for pair in range(4):
            position = row / 3 * unit if pair < 2 else column / 4 * unit
            angle = torch.tensor(position * 10000.0 ** -(2 * (pair % 2) / 4), dtype=torch.float64)
            a, b = x[:, token + 1, 2 * pair], x[:, token + 1, 2 * pair + 1]
            turn = torch.stack((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), dim=-1)
            torch.testing.assert_close(found[:, token + 1, 2 * pair : 2 * pair + 2], turn, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rotary", ["hidden", "residual"])
def test_rotary_stands_in_front_of_every_layer(rotary):
    """Block by block, the tokens turned before each, the stream too where that was asked for."""
    model = model_of("head", rotary=rotary)
    tokens, span = model._tokens(pixels())
    table = grid_table(span.grid, 16, 14, torch.float32, tokens.device)
    branch, residual = tokens, None
    for layer in model.backbone.layers:
        branch = turned(branch, table)
        if rotary == "residual" and residual is not None:
            residual = turned(residual, table)
        branch, residual, _ = layer(branch, residual, torch.float32, None, span)
    torch.testing.assert_close(model.forward_features(pixels()), model.backbone.norm_f(branch, residual))
    other = model_of("head", rotary="none")
    assert not torch.allclose(other.forward_features(pixels()), model.forward_features(pixels()), atol=1e-3)
    with pytest.raises(ShapeError, match="rotary turns tokens by their row and column, and these are of no image"):
        model.backbone(tokens)  # it would go through unturned


def test_layers_in_pairs():
    """Both layers get the same; the second reads backwards; what they hand on is added, or halved too."""
    for merge, share in (("sum", 1.0), ("mean", 0.5)):
        model = model_of(backbone={"bidirectional": "layers", "bidirectional_merge": merge})
        tokens, span = model._tokens(pixels())
        branch, residual = tokens, None
        layers = list(model.backbone.layers)
        for first, second in zip(layers[::2], layers[1::2], strict=True):
            forward = first(branch, residual, torch.float32, None, span)
            flipped = None if residual is None else residual.flip(1)
            backward = second(branch.flip(1), flipped, torch.float32, None, span)
            branch = (forward[0] + backward[0].flip(1)) * share
            residual = (forward[1] + backward[1].flip(1)) * share
        torch.testing.assert_close(model.forward_features(pixels()), model.backbone.norm_f(branch, residual))
        with pytest.raises(UnsupportedError, match="no decoding state"):
            model.backbone.init_state(1, 8, torch.float32)


def test_sum_of_pairs_doubles_the_stream_and_mean_does_not():
    norms = {}
    for merge in ("sum", "mean"):
        model = model_of(backbone={"n_layer": 16, "bidirectional": "layers", "bidirectional_merge": merge})
        _, maps = model.forward_intermediates(pixels(), [1, 15])
        norms[merge] = float((maps[1].norm() / maps[0].norm()).detach())
    assert norms["sum"] > 2**7 / 2
    assert norms["mean"] < 4


def test_pairs_read_packed_rows_and_padding_like_separate_sequences():
    spec = {
        "backbone": {"d_model": 16, "n_layer": 4, "ssm": MAMBA, "attn_layer_idx": [2], "bidirectional": "layers",
                     "attn": {"num_heads": 2, "causal": False}},
    }  # fmt: skip
    model = hg.build(hg.ModelSpec.model_validate(spec)).eval()
    x = torch.randn(1, 9, 16)
    parts = [model(x[:, :4]), model(x[:, 4:5]), model(x[:, 5:])]
    packed = model(x, seq_idx=torch.tensor([[0, 0, 0, 0, 1, 2, 2, 2, 2]]))
    torch.testing.assert_close(packed, torch.cat(parts, 1), atol=1e-5, rtol=1e-5)
    mask = torch.tensor([[False, False, True, True, True, True, False, False, False]])
    torch.testing.assert_close(model(x, mask=mask)[:, 2:6], model(x[:, 2:6]), atol=1e-5, rtol=1e-5)


def test_layers_that_are_asked_for():
    model = model_of("middle", image_size=[12, 20])
    images = pixels(12, 20)
    hidden, maps = model.forward_intermediates(images, [0, 2, -1])
    assert torch.equal(hidden, model.forward_features(images))
    assert [tuple(each.shape) for each in maps] == [(2, 16, 3, 5)] * 3
    _, (last,) = model.forward_intermediates(images, [3], norm=True)
    patches = torch.cat((hidden[:, :7], hidden[:, 8:]), dim=1)
    torch.testing.assert_close(last.flatten(2).transpose(1, 2), patches)
    tokens, span = model._tokens(images)
    branch, residual, _ = model.backbone.layers[0](tokens, None, torch.float32, None, span)
    stream = (branch + residual)[:, [*range(7), *range(8, 16)]]
    torch.testing.assert_close(maps[0].flatten(2).transpose(1, 2), stream)
    with pytest.raises(UnsupportedError, match=r"the layers are 0 ... 3; given 4"):
        model.forward_intermediates(images, [4])
    pairs = model_of(backbone={"bidirectional": "layers"})
    with pytest.raises(UnsupportedError, match="write 3; given -2"):
        pairs.forward_intermediates(pixels(), [1, -2])


def test_drop_path_drops_rows_as_often_as_it_says():
    """Rates rise from 0 in the first layer to the whole one at the end."""
    model = create_model(document(backbone={"drop_path": 0.6})).train()
    rates = [rate for layer in model.backbone.layers for rate in layer.drop_rates]
    assert rates == pytest.approx([0.0, 0.0, 0.0, 0.2, 0.2, 0.4, 0.4, 0.6])
    assert model.backbone.last_drop_rate == 0.6
    torch.manual_seed(0)
    branch, residual = torch.ones(4000, 1, 16), torch.zeros(4000, 1, 16)
    seen = []
    model.backbone.norm_f.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.backbone._end(branch, residual, [[False, False]])
    rows = seen[0][:, 0]
    kept = rows[:, 0] != 0
    assert abs(float(kept.float().mean()) - 0.4) < 0.03
    torch.testing.assert_close(rows[kept], torch.full_like(rows[kept], 1 / 0.4))
    assert (rows[~kept] == 0).all()
    images = pixels()
    assert not torch.equal(model(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "residual"])
def test_dropped_branches_leave_the_stream_as_it_is(placement):
    """With a rate next to 1 in the last two layers, what reaches the end is what the first layer hands on."""
    backbone = {"norm_placement": placement, "n_layer": 2, "drop_path": 1 - 1e-9, "d_intermediate": 32}
    model = create_model(document(backbone=backbone)).train()
    first, second = model.backbone.layers
    tokens, span = model._tokens(pixels())
    stream = first(tokens, None, torch.float32, None, span)
    if placement == "residual":  # normalised after each branch, of which nothing is left
        expected = model.backbone.norm_f(second.post_norm(stream[0]))
    else:
        expected = model.backbone.norm_f(stream[0] + stream[1])
    torch.testing.assert_close(model.backbone(tokens, None, span), expected)
    model.eval()
    assert not torch.allclose(model.backbone(tokens, None, span), expected, atol=1e-3)


def test_what_timm_users_call():
    model = model_of("middle")
    images = pixels()
    features = model.forward_features(images)
    assert torch.equal(model.forward_head(features), model(images))
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    assert model.get_classifier() is model.head
    cfg = model.default_cfg
    assert cfg["input_size"] == (3, 16, 16)
    assert cfg["num_classes"] == 5
    # Pictures are cut in one way, whichever path reads them.
    cuts = [inspect.signature(each).parameters["crop_ratio"].default for each in (read_picture, classify)]
    assert cuts == [cfg["crop_pct"]] * 2
    assert isinstance(model.get_submodule(cfg["first_conv"]), torch.nn.Conv2d)
    assert model.get_submodule(cfg["classifier"]) is model.head
    assert {"pos_embed", "cls_token", "backbone.layers.0.mixer.A_log"} <= model.no_weight_decay()
    assert model.no_weight_decay() <= set(dict(model.named_parameters()))


def test_reset_classifier_changes_the_spec_with_the_head(tmp_path):
    model = model_of("none").to(torch.bfloat16)
    model.reset_classifier(7, global_pool="max")
    assert (model.num_classes, model.head.weight.dtype) == (7, torch.bfloat16)
    assert model.head.bias.eq(0).all()
    assert 0.01 < model.head.weight.std().item() < 0.03
    hg.save(model, tmp_path / "m")
    again = hg.load(tmp_path / "m").eval()
    images = pixels().bfloat16()
    assert again.spec.head.pool == "max"
    assert torch.equal(again(images), model(images))
    model.reset_classifier(3, global_pool="avg")
    assert model.spec.head.pool == "mean"
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), torch.nn.Identity)
    assert model(images).shape == (2, 16)
    with pytest.raises(SpecError, match="pool: cls needs a class token"):
        model.reset_classifier(3, global_pool="cls")


def test_create_model_takes_paths_and_changes():
    model = create_model("configs/model/deit-tiny.yaml", num_classes=0, drop_path=0.2)
    assert (model.num_classes, model.spec.backbone.drop_path) == (0, 0.2)
    assert not model.spec.backbone.layers[0].mixer.causal


def test_starting_values_are_those_of_vim():
    model = create_model(document("middle", image_size=64, backbone={"d_model": 64}, channels=3))
    weight = model.patch_embed.proj.weight
    assert abs(weight.std().item() * (3 * 16) ** 0.5 - 1) < 0.05  # LeCun: variance 1 / fan in
    assert model.patch_embed.proj.bias.eq(0).all()
    assert abs(model.pos_embed.std().item() / 0.02 - 1) < 0.05
    assert model.head.bias.eq(0).all()


def test_rows_are_independent_and_gradients_reach_everything():
    model = model_of("double", backbone={"attn_layer_idx": [2], "attn": {"num_heads": 2}})
    images = pixels(batch=3)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), atol=1e-5, rtol=1e-5)
    model(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
