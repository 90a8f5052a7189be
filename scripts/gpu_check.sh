#!/usr/bin/env bash
# Run on a machine with CUDA, after changing an operator or a layer: GPU tests, then times of every operator and backend.
# Needs no network. Wheels in .whl/ (packages that the machine lacks) are installed beside its own packages first.
# Prints a table and writes gpu-check.json into $OUT, or the current directory. Takes at most 10 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if compgen -G '.whl/*.whl' >/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl
fi
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"

timeout 570 "$python" scripts/gpu_check.py --output "${OUT:-.}/gpu-check.json" "$@"
