"""Layers whose weights wait in memory or on the disk until they run (`device_map`), as accelerate arranges it."""

from torch import nn

from hybridgen.model.block import Block


def load_layers_whole(model: nn.Module) -> None:
    """Lets accelerate bring all weights of an offloaded layer when the layer is called.

    It brings those of each module when that is called; but our mixers read convolutions and norms without a call.
    """
    for name, layer in model.named_modules():
        if not isinstance(layer, Block):
            continue
        found = (getattr(part, "_hf_hook", None) for part in layer.modules())
        hook = next((one for one in found if getattr(one, "offload", False)), None)
        if hook is None:
            continue
        from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_submodules
        from accelerate.utils import PrefixedDataset

        remove_hook_from_submodules(layer)
        whole = AlignDevicesHook(
            execution_device=hook.execution_device,
            offload=True,
            weights_map=PrefixedDataset(hook.weights_map.dataset, f"{name}."),
            offload_buffers=hook.offload_buffers,
            place_submodules=True,
            skip_keys=hook.skip_keys,
            tied_params_map=hook.tied_params_map,
        )
        add_hook_to_module(layer, whole)
