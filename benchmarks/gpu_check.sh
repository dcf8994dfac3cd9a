#!/usr/bin/env bash
# One call on a machine with an NVIDIA GPU: builds for that GPU, runs the whole suite on it with fresh inputs,
# the kernels under compute-sanitizer, every index of 1e8 rows against fp64 and the CPU, and the times beside
# torch and flash-kmeans. Writes benchmarks/results/gpu_<card>.json and .md.
#
#   benchmarks/gpu_check.sh [--quick]      --quick: four minutes; the tests of the search, memcheck,
#                                          1e7 rows, the shapes with goals
#
# PYTHON names the interpreter (default .venv/bin/python, made by `make test`; else python3).
# Where wheels/ exists (`make gpu-wheels` collects it on a machine with a network), what Python lacks is
# installed from there, and nothing is fetched.
# A step that fails is told in the report and in the exit status; the steps after it still run.
# This script has not run on a GPU yet; docs/gpu_status.md says what has.
set -uo pipefail
cd "$(dirname "$0")/.."
quick=0
case "${1-}" in
  '') ;;
  --quick) quick=1 ;;
  *) sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
command -v nvidia-smi >/dev/null || { echo 'nvidia-smi was not found: this needs an NVIDIA GPU' >&2; exit 1; }
if [ -z "${PYTHON-}" ]; then
  if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
"$PYTHON" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || {
  echo "$PYTHON has no torch that sees a GPU" >&2; exit 1; }
# A folder of the kernels' own code: under a sanitizer everything is slow but they.
logs=runs/gpu_check
mkdir -p "$logs"
export PYTHONPATH=$PWD VQGAN_FAST_TEST_SEED="${VQGAN_FAST_TEST_SEED:-$RANDOM$RANDOM}"
started=$SECONDS
failed=0
steps=()

step() {  # step NAME COMMAND...: runs it and keeps "NAME=passed (12 s)", or failed, or "not found"
  local name=$1 outcome=passed begun=$SECONDS
  shift
  echo "== $name: $*"
  if ! command -v "$1" >/dev/null; then
    outcome='not found'
  elif ! "$@" 2>&1 | tee "$logs/${name// /_}.log"; then
    outcome=failed
  fi
  [ "$outcome" = passed ] || failed=1
  steps+=("$name=$outcome ($((SECONDS - begun)) s)")
  echo "== $name: $outcome"
}

if [ -d wheels ]; then
  step wheels "$PYTHON" -m pip install -q --no-index --find-links wheels --no-deps \
    cmake ninja pybind11 setuptools pytest pytest-benchmark hypothesis iniconfig pluggy sortedcontainers \
    py-cpuinfo tqdm flash-kmeans scikit-image lazy-loader imageio tifffile
fi
step build env VQGAN_FAST_CUDA=1 "$PYTHON" setup.py -q build_ext --inplace

if [ "$quick" = 1 ]; then
  step tests "$PYTHON" -m pytest -q -rs -x tests/cuda/test_library.py tests/cuda/test_resources.py \
    tests/cuda/test_search_on_gpu.py tests/cuda/test_decode_on_gpu.py \
    -k 'not thousand and not wrong_easily'
else
  step tests "$PYTHON" -m pytest -q -rs tests
fi

# Each kernel once at least: every way of the search, statistics, gradients, a decode step.
small='every_pair_of_dtypes or strided or each_head or codebook_stats or index_outside'
small="$small or decode_layers or decode_grid_layers or sample_logits or out_of_range"
tools='memcheck racecheck synccheck initcheck'
if [ "$quick" = 1 ]; then tools=memcheck small='every_pair_of_dtypes'; fi
for tool in $tools; do
  step "$tool" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 1800 \
    compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes application-only \
    "$PYTHON" -m pytest -q tests/cuda/test_search_on_gpu.py tests/cuda/test_on_gpu.py \
    tests/cuda/test_decode_on_gpu.py -k "$small"
done

rows=1e8 blocks=10
if [ "$quick" = 1 ]; then rows=1e7 blocks=1; fi
step exactness "$PYTHON" benchmarks/gpu_exactness.py --rows "$rows" --blocks "$blocks" \
  --output "$logs/exactness.json"
if [ "$quick" = 1 ]; then
  step speed "$PYTHON" benchmarks/gpu_speed.py --quick --output "$logs/speed.json"
else
  step speed "$PYTHON" benchmarks/gpu_speed.py --output "$logs/speed.json"
fi
step report "$PYTHON" benchmarks/gpu_report.py "$logs" "${steps[@]}"
echo "$((SECONDS - started)) s in all"
exit "$failed"
