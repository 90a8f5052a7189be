"""Names of presets and of their tasks, for whoever checks what was asked without loading torch."""

_SMALL = (
    "in-context-recall",
    "noisy-recall",
    "fuzzy-recall",
    "selective-copying",
    "compression",
    "memorization",
    "multi-query-recall",
    "length-extrapolation",
    "parity",
    "s3",
)
TASK_NAMES: dict[str, tuple[str, ...]] = {"smoke": _SMALL, "tiny": _SMALL, "mad": (*_SMALL, "s5")}
"""The tasks of each preset, in the order in which they are shown."""
