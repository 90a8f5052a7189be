#!/usr/bin/env bash
# Looks for data races in the extension's CPU operators: builds it with the thread sanitizer in a copy of the tree and
# runs every operator forward and backward on four threads. Run it after changing how an operator splits its work.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${VENV:-.venv}/bin/python")

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r csrc hybridgen scripts setup.py pyproject.toml README.md LICENSE "$copy"
cd "$copy"
rm -f hybridgen/*.so
g++ -fsanitize=thread -g -O1 -std=c++20 -fPIC -shared scripts/tsan_threads.cpp -o threads.so
tsan=$(g++ -print-file-name=libtsan.so)

check() {
  TSAN_OPTIONS="exitcode=66 report_thread_leaks=0" LD_PRELOAD="$tsan $copy/threads.so" PYTHONPATH="$copy" \
    setarch "$(uname -m)" -R "$python" scripts/tsan_check.py "$@"
}

# First a race that is meant: without it, finding none below would say nothing.
status=0
check --race "$copy/threads.so" >race.log 2>&1 || status=$?
if [ "$status" != 66 ] || ! grep -q "data race" race.log; then
  cat race.log
  echo "tsan: the thread sanitizer does not work here: it missed a race that was meant" >&2
  exit 1
fi

HYBRIDGEN_CUDA=0 CXXFLAGS="-fsanitize=thread -g" "$python" setup.py -q build_ext --inplace >build.log 2>&1 || { cat build.log; exit 1; }
check
