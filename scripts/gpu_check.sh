#!/usr/bin/env bash
# Run on a machine with CUDA, after changing an operator or a layer: GPU tests, then times of every operator and backend.
# Needs no network. Builds the extension with its CUDA part first. Wheels in .whl/ (packages that the machine lacks) are
# installed beside its own; source archives of mamba-ssm and causal-conv1d there are compiled for this GPU alone, which
# takes a few minutes on 16 cores.
# Prints a table and writes gpu-check.json into $OUT, or the current directory. Takes at most 10 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if compgen -G '.whl/*.whl' >/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl
fi

arch=$("$python" -c 'import torch; print("{}.{}".format(*torch.cuda.get_device_capability()))' 2>/dev/null || echo 9.0)
HYBRIDGEN_CUDA=1 TORCH_CUDA_ARCH_LIST="$arch" "$python" setup.py -q build_ext --inplace

# Their build scripts name nine architectures and ignore TORCH_CUDA_ARCH_LIST; the wrapper lets one pass.
export PYTORCH_NVCC="$PWD/scripts/nvcc_one_arch.sh" KEEP_ARCH="${arch/./}" MAX_JOBS=8
export CAUSAL_CONV1D_FORCE_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE MAMBA_KEEP_CUDA_BUILD=TRUE
for archive in .whl/*.tar.gz; do
  test -e "$archive" || continue
  "$python" -m pip install -q --no-index --no-deps --no-build-isolation --no-cache-dir --target "$site" "$archive" &
done
wait
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"

timeout 400 "$python" scripts/gpu_check.py --output "${OUT:-.}/gpu-check.json" "$@"
