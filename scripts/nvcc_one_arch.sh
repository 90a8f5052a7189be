#!/usr/bin/env bash
# nvcc for one GPU architecture only: drops every -gencode option but that of KEEP_ARCH (such as 90). PYTORCH_NVCC may
# name this script when a package is built whose setup.py names architectures of its own.
set -euo pipefail
nvcc="${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"
kept=()
while (($#)); do
  if [[ $1 == -gencode ]]; then
    [[ $2 == *"code=sm_${KEEP_ARCH:?}" ]] && kept+=("$1" "$2")
    shift 2
  elif [[ $1 == -gencode=* && $1 != *"code=sm_${KEEP_ARCH:?}" ]]; then
    shift
  else
    kept+=("$1")
    shift
  fi
done
exec "$nvcc" "${kept[@]}"
