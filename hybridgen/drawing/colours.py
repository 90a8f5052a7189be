"""The colours of pictures, by what they mean: told apart by colour-blind readers, and unequally dark in grey print."""

LIGHT = {
    "ground": "#ffffff",
    "ink": "#1f2328",
    "muted": "#6a737d",
    "panel": "#f6f8fa",
    "path": "#7b2d8e",
    "mamba1": "#00795c",
    "mamba1-fill": "#dcf1e9",
    "mamba2": "#1d64a8",
    "mamba2-fill": "#d5e6f6",
    "attention": "#d9690a",
    "attention-fill": "#fdebd3",
    "rest": "#c6ccd4",
    "mlp": "#8a919b",
    "mlp-fill": "#eff0f3",
}
DARK = {
    "ground": "#0d1117",
    "ink": "#e6edf3",
    "muted": "#9198a1",
    "panel": "#161b22",
    "path": "#d2a8ff",
    "mamba1": "#2fb98f",
    "mamba1-fill": "#0f3328",
    "mamba2": "#58a6ff",
    "mamba2-fill": "#10294a",
    "attention": "#f0954a",
    "attention-fill": "#45270d",
    "rest": "#484f58",
    "mlp": "#7d8590",
    "mlp-fill": "#21262d",
}
