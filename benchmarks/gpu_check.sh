#!/usr/bin/env bash
# One call on a machine with an NVIDIA GPU: builds for that GPU, runs every way of the search and the other ops
# on it with fresh inputs, times them beside torch and flash-kmeans, compares every index of 1e8 rows with fp64
# and the CPU, runs the kernels under compute-sanitizer, then the whole suite. Writes gpu_<card>.json and .md
# into runs/gpu_check and benchmarks/results.
#
#   benchmarks/gpu_check.sh [--quick] [--minutes M] [--into FOLDER] [--copy-to FOLDER] [STEP...]
#
#   --quick       the short of it: the shapes with goals, 1e7 rows, memcheck on one test, not the suite; and
#                 --minutes 4, if no other number is given
#   --minutes M   ends by itself after M minutes: a step gets what is left, and none is begun without time
#   --into FOLDER instead of runs/gpu_check
#   --copy-to FOLDER  report, log and all else there too, after every step: the folder that a lent machine
#                 gives back
#   STEP...       these steps alone, in their order, and those that they need and that have no outcome yet;
#                 what others found in the last call stays
#
# The report is written anew after every step, so that a call that is cut off leaves what it found. A step that
# fails or outlasts its limit is told there and in the exit status; the steps after it still run. Where the
# search by wgmma (or mma.sync) has not passed, the steps after it search by mma.sync (or direct distances).
# PYTHON names the interpreter (default .venv/bin/python, made by `make test`; else python3), COMMIT the commit
# where there is no git.
# Where wheels/ exists (`make gpu-wheels` collects it on a machine with a network), what Python lacks is
# installed from there, and nothing is fetched.
# This script has not run on a GPU yet; docs/gpu_status.md says what has.
set -uo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '2,26s/^# \{0,1\}//p' "$0" >&2; exit 2; }
all='wheels build search_direct search_exact search_mma search_wgmma search_auto ops decode soft_assign sampling
  exactness speed memcheck racecheck synccheck initcheck wgmma_memcheck wgmma_racecheck suite'
quick=0 deadline= folder=runs/gpu_check copies= chosen=
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1 ;;
    --minutes) [[ ${2-} =~ ^[0-9]+$ ]] || usage; deadline=$((SECONDS + 60 * $2)); shift ;;
    --into) [ -n "${2-}" ] || usage; folder=$2; shift ;;
    --copy-to) [ -n "${2-}" ] || usage; copies=$2; shift ;;
    *) [[ " ${all//$'\n'/ } " == *" $1 "* ]] || usage; chosen+=" $1" ;;
  esac
  shift
done
[ "$quick" = 0 ] || deadline=${deadline:-$((SECONDS + 240))}
command -v nvidia-smi >/dev/null || { echo 'nvidia-smi was not found: this needs an NVIDIA GPU' >&2; exit 1; }
if [ -z "${PYTHON-}" ]; then
  if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
"$PYTHON" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || {
  echo "$PYTHON has no torch that sees a GPU" >&2; exit 1; }
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 VQGAN_FAST_TEST_SEED="${VQGAN_FAST_TEST_SEED:-$RANDOM$RANDOM}"
mkdir -p "$folder" ${copies:+"$copies"}
[ -n "$chosen" ] || rm -f "$folder"/{log,steps,speed.json,exactness.json}
touch "$folder/log"
failed=0

wanted() { [ -z "$chosen" ] || [[ "$chosen " == *" $1 "* ]]; }

outcome_of() { sed -n "s/^$1=//p" "$folder/steps" 2>/dev/null | tail -n 1; }

note() {  # NAME OUTCOME: for the report, which is written anew; the last outcome of a name counts
  echo "$1=$2" >>"$folder/steps"
  "$PYTHON" benchmarks/gpu_report.py "$folder" >"$folder/report" 2>&1 || { cat "$folder/report"; failed=1; }
  [ -z "$copies" ] || cp -f "$folder"/* "$copies"
}

step() {  # NAME SECONDS COMMAND...
  local name=$1 limit=$2 outcome=passed begun=$SECONDS status=0 lines
  shift 2
  wanted "$name" || return 0
  if [ -n "$deadline" ] && [ $((deadline - SECONDS)) -lt "$limit" ]; then limit=$((deadline - SECONDS)); fi
  if [ "$limit" -lt 5 ]; then
    note "$name" 'no time was left'; failed=1; return 0
  fi
  echo "== $name: $*" | tee -a "$folder/log"
  echo "$name=began, and did not end" >>"$folder/steps"
  lines=$(wc -l <"$folder/log")
  # No pipe: what a killed command leaves running would hold it open.
  timeout -k 5 "$limit" "$@" >>"$folder/log" 2>&1 </dev/null || status=$?
  tail -n "+$((lines + 1))" "$folder/log" | tail -n 12
  case $status in
    0) ;;
    124 | 137) outcome="ended by its limit" ;;
    126 | 127) outcome='not found' ;;
    *) outcome=failed ;;
  esac
  [ "$status" = 0 ] || failed=1
  note "$name" "$outcome ($((SECONDS - begun)) s)"
  echo "== $name: $outcome ($((SECONDS - begun)) s)"
}

tests() {  # NAME SECONDS ARGUMENTS...: in a process of their own, as one bad access spoils all that follow
  local name=$1 limit=$2
  shift 2
  # Each test is named as it begins, and one that hangs tells where.
  step "$name" "$limit" "$PYTHON" -m pytest -v -rs -p no:cacheprovider -o faulthandler_timeout=60 "$@"
}

loads() {
  "$PYTHON" >>"$folder/log" 2>&1 -c 'from vqgan_fast._library import load_libraries
for status in load_libraries():
    assert status.loaded, status' </dev/null
}

# A machine that was lent anew has nothing of the last call's.
if [ -n "$chosen" ]; then
  wanted build || loads || chosen=" wheels build$chosen"
  for way in mma wgmma; do
    case $(outcome_of search_$way) in '' | 'no time'*) wanted search_$way || chosen+=" search_$way" ;; esac
  done
fi

if [ -d wheels ]; then
  # One by one where one does not fit this Python.
  step wheels 120 sh -c 'names="cmake ninja pybind11 setuptools pytest pytest-benchmark hypothesis iniconfig pluggy
    sortedcontainers py-cpuinfo tqdm flash-kmeans scikit-image lazy-loader imageio tifffile"
    install="$0 -m pip install -q --no-index --find-links wheels --no-deps"
    $install $names || for name in $names; do $install $name; done' "$PYTHON"
fi
step build 400 env VQGAN_FAST_CUDA=1 "$PYTHON" setup.py -q build_ext --inplace
# Without the library every test on the GPU would be skipped, and pass.
"$PYTHON" -m vqgan_fast info >>"$folder/log" 2>&1 </dev/null
loads || {
  note library 'does not load'; cat "$folder/report"; tail -n 3 "$folder/log"; exit 1; }

search=tests/cuda/test_search_on_gpu.py
for way in direct exact mma wgmma auto; do
  these=$way
  case $way in mma) these='mma and not wgmma' ;; auto) these='(auto or large_codebook or unknown)' ;; esac
  if [ "$quick" = 0 ]; then
    tests search_$way 180 $search -k "$these"
  elif [ $way != auto ]; then
    tests search_$way 60 $search -k "$these and not thousand and not wrong_easily"
  fi
done
works() { [[ $(outcome_of "search_$1") == passed* ]]; }
if works wgmma; then way=auto; elif works mma; then way=mma; else way=direct; fi
[ $way = auto ] || export VQGAN_FAST_CUDA_SEARCH=$way
note 'search of the steps after' $way
short=
if [ "$quick" = 1 ]; then short='not 32_bits and not compile and not 5000 and not 16384'; fi
tests ops 240 tests/cuda/test_on_gpu.py tests/cuda/test_library.py tests/cuda/test_resources.py -k "$short"
tests decode 180 tests/cuda/test_decode_on_gpu.py -k "$short"
tests soft_assign 180 tests/cuda/test_soft_assign_on_gpu.py -k "$short"
tests sampling 120 tests/cuda/test_sampling_on_gpu.py

# Speed last: what it has found so far is kept where it is cut off.
if [ "$quick" = 1 ]; then
  step exactness 60 "$PYTHON" benchmarks/gpu_exactness.py --rows 1e7 --blocks 1 --output "$folder/exactness.json"
  step speed 150 "$PYTHON" benchmarks/gpu_speed.py --quick --output "$folder/speed.json"
else
  step exactness 300 "$PYTHON" benchmarks/gpu_exactness.py --rows 1e8 --blocks 10 \
    --output "$folder/exactness.json"
  step speed 600 "$PYTHON" benchmarks/gpu_speed.py --output "$folder/speed.json"
fi

# Each kernel once at least: every way of the search, statistics, gradients, a decode step, soft assignment.
small='every_pair_of_dtypes or strided or each_head or codebook_stats or index_outside'
small="$small or decode_layers or decode_grid_layers or sample_logits or out_of_range or same_bits"
tools='memcheck racecheck synccheck initcheck' limit=600
if [ "$quick" = 1 ]; then tools=memcheck limit=90 small='every_pair_of_dtypes'; fi
runs=  # of the tools
for tool in $tools; do
  runs+=" $tool"
  case $tool in memcheck | racecheck) [ $way != auto ] || runs+=" wgmma_$tool" ;; esac
done
still=0  # to come
for name in $runs; do ! wanted $name || still=$((still + 1)); done
sanitize() {  # NAME TOOL ARGUMENTS...: each gets its share of the time that is left
  local name=$1 tool=$2 share=$limit
  shift 2
  wanted "$name" || return 0
  if [ -n "$deadline" ] && [ $(((deadline - SECONDS) / still)) -lt "$share" ]; then
    share=$(((deadline - SECONDS) / still))
  fi
  still=$((still > 1 ? still - 1 : 1))
  step "$name" "$share" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 VQGAN_FAST_TEST_POISON=0 \
    compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes application-only \
    "$PYTHON" -m pytest -v -p no:cacheprovider "$@"
}
# wgmma apart: releases of the tool have reported its reads of shared memory wrongly.
for tool in $tools; do
  VQGAN_FAST_CUDA_SEARCH=${VQGAN_FAST_CUDA_SEARCH:-mma} sanitize "$tool" "$tool" $search \
    tests/cuda/test_on_gpu.py tests/cuda/test_decode_on_gpu.py tests/cuda/test_soft_assign_on_gpu.py \
    -k "($small) and not wgmma and not auto"
  [[ "$runs " != *" wgmma_$tool "* ]] || sanitize "wgmma_$tool" "$tool" $search -k "($small) and wgmma"
done
[ "$quick" = 1 ] || tests suite 1800 tests
cat "$folder/report"
echo "$SECONDS s in all"
exit "$failed"
