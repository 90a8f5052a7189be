"""Layers in plain PyTorch; each takes its own spec and the sizes that only its parent knows."""
