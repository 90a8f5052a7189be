"""Position embeddings for another grid of patches: right wherever the class token stands, or as upstream did it."""

import pytest
import torch

import hybridgen as hg
from hybridgen.errors import SpecError, UnsupportedError
from hybridgen.spec import PatchesInputSpec
from hybridgen.vision import create_model, interpolate_pos_embed, resize_model

CLS = ("none", "head", "middle", "double")


def reads(size, cls_token="none", **more):
    return PatchesInputSpec(type="patches", image_size=size, patch_size=4, cls_token=cls_token, **more)


def plane_of(spec):
    """Embeddings whose first channel is the row and whose second is the column of the patch; class tokens are 1000."""
    rows, columns = spec.grid()
    row, column = torch.meshgrid(torch.arange(rows).float(), torch.arange(columns).float(), indexing="ij")
    table = torch.stack((row / (rows - 1), column / (columns - 1)), dim=-1).flatten(0, 1)
    for place in spec.class_places():
        table = torch.cat((table[:place], torch.full((1, 2), 1000.0), table[place:]))
    return table[None]


@pytest.mark.parametrize("cls_token", CLS)
def test_slopes_stay_slopes_and_class_tokens_stay(cls_token):
    old, new = reads(48, cls_token), reads((96, 64), cls_token)
    result = interpolate_pos_embed(plane_of(old), old, new)
    assert result.shape == (1, new.length(), 2)
    is_class = torch.zeros(new.length(), dtype=torch.bool)
    is_class[list(new.class_places())] = True
    assert (result[0, is_class] == 1000).all()
    # PyTorch's bicubic kernel gives a slope back to half a percent; a patch that moved by one would be off by 9.
    inner = result[0, ~is_class].unflatten(0, new.grid())[4:-4, 3:-3]
    rows, columns = new.grid()
    row = ((torch.arange(rows) + 0.5) * 12 / rows - 0.5) / 11
    column = ((torch.arange(columns) + 0.5) * 12 / columns - 0.5) / 11
    torch.testing.assert_close(inner[..., 0], row[4:-4, None].expand(-1, columns - 6), atol=5e-3, rtol=0)
    torch.testing.assert_close(inner[..., 1], column[None, 3:-3].expand(rows - 8, -1), atol=5e-3, rtol=0)


def test_upstream_mode_takes_the_first_row_for_the_class_token():
    """As utils.interpolate_pos_embed of Vim does: rows 1 ... are patches, whatever they are."""
    old, new = reads(16, "middle"), reads(32, "middle")
    table = torch.randn(1, old.length(), 6)
    result = interpolate_pos_embed(table, old, new, upstream=True)
    plane = table[:, 1:].reshape(1, 4, 4, 6).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(plane, size=(8, 8), mode="bicubic", align_corners=False)
    expected = torch.cat((table[:, :1], expected.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)
    torch.testing.assert_close(result, expected)
    right = interpolate_pos_embed(table, old, new)
    assert torch.equal(right[:, new.class_places()[0]], table[:, old.class_places()[0]])
    assert not torch.allclose(right, result)


def test_head_token_is_the_same_in_both_modes():
    old, new = reads(16, "head"), reads(24, "head")
    table = torch.randn(1, old.length(), 6)
    assert torch.equal(interpolate_pos_embed(table, old, new), interpolate_pos_embed(table, old, new, upstream=True))


def test_the_same_grid_changes_nothing():
    old = reads(16, "middle")
    table = torch.randn(1, old.length(), 6, dtype=torch.bfloat16)
    assert interpolate_pos_embed(table, old, old, upstream=True) is table
    assert interpolate_pos_embed(table, old, reads(24, "middle")).dtype == torch.bfloat16


def test_other_class_tokens_are_refused():
    with pytest.raises(UnsupportedError, match="given cls_token: head and middle"):
        interpolate_pos_embed(torch.zeros(1, 17, 4), reads(16, "head"), reads(16, "middle"))


DOCUMENT = {
    "input": {"type": "patches", "image_size": 16, "patch_size": 4, "cls_token": "middle"},
    "backbone": {"d_model": 16, "n_layer": 2, "ssm": {"type": "mamba1", "d_state": 4}},
    "head": {"type": "classifier", "num_classes": 3},
}


def test_resized_model_shares_all_but_positions():
    model = create_model(DOCUMENT).eval()
    model.get_parameter("cls_token").requires_grad_(False)
    wider = resize_model(model, (24, 32), stride=2)
    assert wider.spec.input.grid() == (11, 15)
    assert wider(torch.randn(2, 3, 24, 32)).shape == (2, 3)
    assert not wider.training
    assert not wider.get_parameter("cls_token").requires_grad
    assert wider.get_parameter("pos_embed").requires_grad
    for name, parameter in model.named_parameters():
        if name != "pos_embed":
            assert torch.equal(parameter, wider.get_parameter(name)), name
            assert parameter.data_ptr() != wider.get_parameter(name).data_ptr()
    same = resize_model(model, 16)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(same(images), model(images))
    with pytest.raises(SpecError, match="write 16 or 20"):
        resize_model(model, 17)


def test_resized_model_can_be_saved(tmp_path):
    model = resize_model(create_model(DOCUMENT), 32).eval()
    hg.save(model, tmp_path / "m")
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(hg.load(tmp_path / "m").eval()(images), model(images))
