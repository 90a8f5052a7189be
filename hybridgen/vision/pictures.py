"""From a file with a picture to the tensor that a model reads."""

import os
import stat
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from hybridgen.errors import HybridgenError, UnsupportedError, printable
from hybridgen.model.vision import CROP_RATIO
from hybridgen.spec.ends import PatchesInputSpec

if TYPE_CHECKING:
    from PIL import Image

INSTALL = "pip install pillow"
# Formats that Pillow decodes itself: for EPS, say, it starts another program on the file.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def read_picture(
    path: str | os.PathLike[str], spec: PatchesInputSpec, crop_ratio: float = CROP_RATIO
) -> Float[Tensor, "C H W"]:
    """Reads a picture as evaluation on ImageNet does: scaled, cut out of the middle, normalised.

    Args:
        path: A BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF or WebP file; the first picture of several. Gray values of 16
            bits are scaled to 8.
        spec: What the model reads: image_size, channels, mean and std.
        crop_ratio: The picture is scaled so that the model sees this share of its tighter side; 1 is all of it.

    Returns:
        The picture in float32.

    Raises:
        HybridgenError: If Pillow is not installed, the file is no picture that it can read, its pixels have no known
            range, or only another program could read it.
        UnsupportedError: If no picture has as many channels as the model reads.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise HybridgenError(f"reading pictures needs Pillow; install it with `{INSTALL}`") from error
    if spec.channels not in _MODES:
        raise UnsupportedError(
            f"pictures have 1, 3 or 4 channels and the model reads {spec.channels}; call it with tensors, model(images)"
        )
    if not 0 < crop_ratio <= 1:
        raise HybridgenError(f"crop_ratio must be above 0 and at most 1; given {crop_ratio}")
    name = printable(str(path))
    try:
        _check_file(path, name)
        with Image.open(path, formats=_FORMATS) as opened:
            upright = _with_eight_bits(ImageOps.exif_transpose(opened), name)
            picture = _fitted(upright.convert(_MODES[spec.channels]), spec.size(), crop_ratio)
    except FileNotFoundError as error:
        raise HybridgenError(f"{name}: there is no such file") from error
    except UnidentifiedImageError as error:
        raise HybridgenError(f"{name}: is no picture in one of the formats {', '.join(_FORMATS)}") from error
    # A damaged file can raise nearly anything, depending on its format; a huge one is refused by Pillow.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        raise HybridgenError(f"{name}: cannot be read as a picture: {reason}") from error
    mean, std = spec.pixel_statistics()
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).float() / 255
    values = values.view(picture.height, picture.width, spec.channels).permute(2, 0, 1)
    return (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _check_file(path: str | os.PathLike[str], name: str) -> None:
    """Refuses what is no file: a pipe would wait for a writer for ever."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise HybridgenError(f"{name}: is a directory; name the pictures in it")
    if not stat.S_ISREG(mode):
        raise HybridgenError(f"{name}: is no regular file; save the picture to one")


def _with_eight_bits(picture: "Image.Image", name: str) -> "Image.Image":
    """Scales 16 bits to 8, where Pillow's own conversion cuts off all above 255 and leaves a white picture."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        return picture.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if picture.mode in ("I", "F"):
        raise HybridgenError(
            f"{name}: has pixels of 32 bits (Pillow's mode {picture.mode}), of which nothing says what is white; save "
            f"it with 8 or 16 bits"
        )
    return picture


def _fitted(picture: "Image.Image", size: tuple[int, int], crop_ratio: float) -> "Image.Image":
    """Cuts out of the middle what is `crop_ratio` of the tighter side, and scales it to `size`."""
    from PIL import Image

    height, width = size
    # Only the part that stays is scaled: a picture one pixel high does not become one a million wide.
    share = min(picture.height / height, picture.width / width) * crop_ratio
    left, top = (picture.width - share * width) / 2, (picture.height - share * height) / 2
    box = (left, top, picture.width - left, picture.height - top)
    return picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
