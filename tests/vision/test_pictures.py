"""Pictures from files: scaled, cut out, normalised, or refused with words."""

import builtins
import os

import numpy as np
import pytest
import torch
from PIL import Image

from hybridgen.errors import HybridgenError, UnsupportedError
from hybridgen.spec import PatchesInputSpec
from hybridgen.vision import read_picture


def reads(size, channels=3, **more):
    return PatchesInputSpec(type="patches", image_size=size, patch_size=4, channels=channels, **more)


def save(path, size, color):
    Image.new("RGB", size, color).save(path)
    return path


def test_values_are_normalised_by_channel(tmp_path):
    path = save(tmp_path / "red.png", (40, 20), (255, 0, 51))
    x = read_picture(path, reads(16))
    assert x.shape == (3, 16, 16)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(x.mean(dim=(1, 2)), torch.tensor(expected), atol=1e-5, rtol=0)
    own = read_picture(path, reads(16, mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]))
    torch.testing.assert_close(own[:, 3, 3], torch.tensor([1.0, 0.0, 0.2]), atol=1e-6, rtol=0)


def test_gray_pictures_for_one_channel(tmp_path):
    path = save(tmp_path / "gray.png", (8, 8), (102, 102, 102))
    x = read_picture(path, reads(8, channels=1))
    torch.testing.assert_close(x, torch.full((1, 8, 8), (0.4 - 0.5) / 0.5), atol=1e-5, rtol=0)


def test_middle_is_cut_out(tmp_path):
    """A white bar in the middle of a wide picture fills what the model sees."""
    picture = Image.new("L", (96, 32), 0)
    picture.paste(255, (32, 0, 64, 32))
    picture.save(tmp_path / "bar.png")
    spec = reads(32, channels=1, mean=[0.0], std=[1.0])
    x = read_picture(tmp_path / "bar.png", spec, crop_ratio=1.0)
    assert (x == 1).all()
    zoomed = read_picture(tmp_path / "bar.png", spec, crop_ratio=0.5)
    assert (zoomed == 1).all()


def test_whole_picture_is_unchanged_at_its_own_size(tmp_path):
    pixels = torch.randint(0, 256, (12, 20), dtype=torch.uint8)
    Image.frombytes("L", (20, 12), bytes(pixels.flatten().tolist())).save(tmp_path / "p.png")
    x = read_picture(tmp_path / "p.png", reads((12, 20), channels=1, mean=[0.0], std=[1.0]), crop_ratio=1.0)
    torch.testing.assert_close(x[0], pixels.float() / 255, atol=1e-6, rtol=0)


def test_orientation_of_a_camera_is_obeyed(tmp_path):
    picture = Image.new("L", (8, 8), 0)
    picture.paste(255, (0, 0, 8, 4))  # white on top
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    picture.save(tmp_path / "p.png", exif=exif)
    x = read_picture(tmp_path / "p.png", reads(8, channels=1, mean=[0.0], std=[1.0]), crop_ratio=1.0)
    assert (x[0, :4] == 0).all()
    assert (x[0, 4:] == 1).all()


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (1, 1), (3, 5)])
def test_any_shape_can_be_read(tmp_path, size):
    path = save(tmp_path / "thin.png", size, (9, 9, 9))
    assert read_picture(path, reads((16, 32))).shape == (3, 16, 32)


def test_what_is_no_picture_is_refused_with_words(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    whole = save(tmp_path / "whole.png", (50, 50), (1, 2, 3)).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HybridgenError, match=r"text.png: is no picture"):
        read_picture(tmp_path / "text.png", reads(8))
    with pytest.raises(HybridgenError, match=r"half.png: cannot be read as a picture"):
        read_picture(tmp_path / "half.png", reads(8))
    with pytest.raises(HybridgenError, match=r"none.png: there is no such file"):
        read_picture(tmp_path / "none.png", reads(8))
    with pytest.raises(HybridgenError, match="is a directory"):
        read_picture(tmp_path, reads(8))
    with pytest.raises(UnsupportedError, match="the model reads 5"):
        read_picture(tmp_path / "whole.png", reads(8, channels=5))
    with pytest.raises(HybridgenError, match="crop_ratio"):
        read_picture(tmp_path / "whole.png", reads(8), crop_ratio=0)


def test_no_other_program_is_started_on_a_file(tmp_path, monkeypatch):
    """Pillow hands EPS to Ghostscript."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("Ghostscript was called"))
    head = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / "p.png").write_bytes(head)
    with pytest.raises(HybridgenError, match=r"p.png: is no picture in one of the formats BMP, "):
        read_picture(tmp_path / "p.png", reads(8))


def test_without_pillow_the_command_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(HybridgenError, match="pip install pillow"):
        read_picture(tmp_path / "x.png", reads(8))


def test_sixteen_bits_are_scaled(tmp_path):
    """A picture of 16 bits is that of 8 bits, and not white where it exceeds 255."""
    values = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "8.png")
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "16.png")
    expected = read_picture(tmp_path / "8.png", reads(8), crop_ratio=1.0)
    torch.testing.assert_close(read_picture(tmp_path / "16.png", reads(8), crop_ratio=1.0), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_of_no_known_range(tmp_path, kind):
    Image.fromarray(np.ones((8, 8), dtype=kind)).save(tmp_path / "p.tiff")
    with pytest.raises(HybridgenError, match=r"p\.tiff: has pixels of 32 bits .* save it with 8 or 16 bits"):
        read_picture(tmp_path / "p.tiff", reads(8))


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HybridgenError, match="pipe: is no regular file"):
        read_picture(tmp_path / "pipe", reads(8))
    with pytest.raises(HybridgenError, match="is a directory; name the pictures in it"):
        read_picture(tmp_path, reads(8))


def test_names_cannot_speak_to_the_terminal(tmp_path):
    with pytest.raises(HybridgenError) as caught:
        read_picture(tmp_path / "a\nb\x1b[31m.png", reads(8))
    assert str(caught.value).endswith(r"a\nb\x1b[31m.png: there is no such file")
