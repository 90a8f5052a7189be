"""The operators: plain PyTorch that runs anywhere, and calls of the published CUDA kernels where they are installed."""
