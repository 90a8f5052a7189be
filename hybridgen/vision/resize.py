"""The same model for images of another size: its position embeddings interpolated."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hybridgen.builder import DTYPES, build
from hybridgen.errors import HybridgenError, ShapeError, UnsupportedError
from hybridgen.model.vision import VisionModel, check_is_vision
from hybridgen.spec.ends import PatchesInputSpec
from hybridgen.spec.model import ModelSpec


def resize_model(
    model: VisionModel,
    image_size: int | tuple[int, int],
    stride: int | None = None,
    upstream: bool = False,
) -> VisionModel:
    """Returns a copy of a model for images of another size, or for patches at another distance.

    Args:
        model: A model of images; it stays as it is.
        image_size: Pixels of a side, or (height, width).
        stride: Pixels from one patch to the next; None keeps the model's.
        upstream: As in `interpolate_pos_embed`.

    Raises:
        SpecError: If the patches do not fit such images.
        UnsupportedError: As in `interpolate_pos_embed`.
    """
    model = check_is_vision(model)
    old = model.source
    document: dict[str, Any] = model.spec.document()
    document["input"]["image_size"] = image_size
    document["input"]["stride"] = old.stride if stride is None else stride
    spec = ModelSpec.model_validate(document)
    resized = check_is_vision(build(spec, device="meta", dtype=model.dtype))
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if model.pos_embed is not None:
        weights["pos_embed"] = interpolate_pos_embed(weights["pos_embed"], old, resized.source, upstream)
    resized.load_state_dict(weights, assign=True)
    for name, parameter in resized.named_parameters():
        parameter.requires_grad_(model.get_parameter(name).requires_grad)
    return resized.train(model.training)


def interpolate_pos_embed(
    pos_embed: Float[Tensor, "1 L D"], old: PatchesInputSpec, new: PatchesInputSpec, upstream: bool = False
) -> Float[Tensor, "1 M D"]:
    """Returns position embeddings for another grid of patches: bicubic between patches, class tokens as they are.

    Args:
        pos_embed: One row per token of a model with the input `old`.
        old: What that model reads.
        new: What the other model reads, with class tokens at the same kind of place.
        upstream: Vim's own way, for which recipes of fine-tuning were tuned: it takes the first rows for the class
            tokens, wherever these stand. With a token in the middle half of the patches move by one, and the class
            token gets an embedding between patches.

    Raises:
        HybridgenError: If `old` or `new` is no input of images.
        ShapeError: If the position embeddings are not those of `old`.
        UnsupportedError: If the two differ in their class tokens.
    """
    for name, source in (("old", old), ("new", new)):
        if not isinstance(source, PatchesInputSpec):
            raise HybridgenError(
                f"{name} must be what a model of images reads, model.source; given {type(source).__name__}"
            )
    _check_rows(pos_embed, old.length())
    if old.cls_token != new.cls_token:
        raise UnsupportedError(
            f"position embeddings go from one grid to another only with the same class tokens; given cls_token: "
            f"{old.cls_token} and {new.cls_token}"
        )
    if old.grid() == new.grid():
        return pos_embed
    count = len(old.class_places())
    places, new_places = (tuple(range(count)),) * 2 if upstream else (old.class_places(), new.class_places())
    # Not by a mask: on the device meta nothing can be counted.
    is_patch = [place not in places for place in range(old.length())]
    rows = torch.tensor([row for row, patch in enumerate(is_patch) if patch], device=pos_embed.device)
    tokens, patches = pos_embed[:, list(places)], pos_embed.index_select(1, rows)
    plane = patches.transpose(1, 2).unflatten(2, old.grid())
    # Bicubic interpolation has no kernels for small types.
    wide = plane if plane.dtype == torch.float64 else plane.float()
    wide = functional.interpolate(wide, size=new.grid(), mode="bicubic", align_corners=False)
    result = wide.to(pos_embed.dtype).flatten(2).transpose(1, 2)
    for index, place in enumerate(new_places):
        result = torch.cat((result[:, :place], tokens[:, index : index + 1], result[:, place:]), dim=1)
    return result


def _check_rows(pos_embed: Tensor, length: int) -> None:
    if not isinstance(pos_embed, Tensor):
        raise ShapeError(f"position embeddings must be a tensor; given {type(pos_embed).__name__}")
    fits = pos_embed.ndim == 3 and pos_embed.shape[:2] == (1, length) and pos_embed.shape[2]
    if not fits or pos_embed.dtype not in DTYPES.values():
        raise ShapeError(
            f"position embeddings of these images must have the shape (1, {length}, D) and be of {', '.join(DTYPES)}; "
            f"given {tuple(pos_embed.shape)} of {pos_embed.dtype}"
        )
