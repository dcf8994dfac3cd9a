#!/usr/bin/env bash
# One call on a machine with an NVIDIA GPU: builds for that GPU, runs every way of the search and the other ops
# on it with fresh inputs, times them beside torch and flash-kmeans, compares every index of 1e8 rows with fp64
# and the CPU, runs the kernels under compute-sanitizer, then the whole suite. Writes gpu_<card>.json and .md
# into runs/gpu_check and benchmarks/results.
#
#   benchmarks/gpu_check.sh [--quick] [--minutes M] [--into FOLDER] [--copy-to FOLDER] [STEP...]
#
#   --quick       the short of it: the shapes with goals, 1e7 rows, memcheck on two tests, not the suite; and
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
# search by wgmma (or mma.sync) crashed, hung or found wrong indices, the steps after it search by mma.sync (or
# direct distances); any other failure of its tests changes nothing for them. A way that hung is not taken
# again but by the tools; one that crashed is timed last.
# PYTHON names the interpreter (default .venv/bin/python, made by `make test`; else python3), COMMIT the commit
# where there is no git, VQGAN_FAST_TEST_SEED the seed of the tests' inputs.
# Where wheels/ exists (`make gpu-wheels` collects it on a machine with a network), what Python lacks is
# installed from there, and nothing is fetched. Where the build fails, the libraries of
# wheels/vqgan_fast-*.whl take its place, and the report says so.
# This script has not run on a GPU yet; docs/gpu_status.md says what has.
set -uo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '2,29s/^# \{0,1\}//p' "$0" >&2; exit 2; }
all='wheels build libraries search_direct search_exact search_mma search_wgmma search_auto ops decode
  soft_assign sampling exactness speed memcheck racecheck synccheck initcheck wgmma_memcheck wgmma_racecheck suite'
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
echo "VQGAN_FAST_TEST_SEED=$VQGAN_FAST_TEST_SEED" >>"$folder/log"
failed=0

named() { [[ "$chosen " == *" $1 "* ]]; }
wanted() { [ -z "$chosen" ] || named "$1"; }

outcome_of() { sed -n "s/^$1=//p" "$folder/steps" 2>/dev/null | tail -n 1; }

note() {  # NAME OUTCOME: for the report, which is written anew; the last outcome of a name counts
  echo "$1=$2" >>"$folder/steps"
  "$PYTHON" benchmarks/gpu_report.py "$folder" >"$folder/report" 2>&1 || { cat "$folder/report"; failed=1; }
  [ -z "$copies" ] || cp -f "$folder"/* "$copies"
}

failure() {  # LINE: what the log from there on says of pytest's failures
  local told
  told=$(tail -n "+$1" "$folder/log")
  # A step that may not be captured in a CUDA graph is no crash.
  if grep -qE '^[+]+ Timeout [+]+|from pytest-timeout' <<<"$told"; then
    echo 'ended by its limit'
  elif grep -E '^E .*CUDA error' <<<"$told" | grep -qv captur; then
    echo crashed
  elif grep -qE '^E .*indices differ' <<<"$told"; then
    echo 'wrong indices'
  else
    echo failed
  fi
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
    1) outcome=$(failure "$((lines + 1))") ;;
    *) if [ "$status" -gt 128 ]; then outcome=crashed; else outcome=failed; fi ;;
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
  named build || named libraries || loads || chosen=" wheels build$chosen"
  for way in mma wgmma; do
    case $(outcome_of search_$way) in
      '' | 'no time'* | began*) wanted search_$way || chosen+=" search_$way" ;;
    esac
  done
fi
note 'seed of the tests' "$VQGAN_FAST_TEST_SEED"

if [ -d wheels ]; then
  # pip leaves what is there as it is, unless it is older than what is asked for. One by one where one does not
  # fit this Python.
  # shellcheck disable=SC2016  # expanded by the inner shell
  step wheels 120 bash -c 'install=("$0" -m pip install -q --no-index --find-links wheels --no-deps) lacking=
    "${install[@]}" "$@" && exit
    for name; do "${install[@]}" "$name" || lacking+=" $name"; done
    [ -z "$lacking" ] || { echo "neither installed nor to be had from wheels/:$lacking"; exit 1; }' "$PYTHON" \
    'setuptools>=77' 'cmake>=3.25' ninja 'pybind11>=2.13' pytest pytest-benchmark hypothesis iniconfig pluggy \
    pytest-timeout sortedcontainers py-cpuinfo tqdm flash-kmeans scikit-image lazy-loader imageio tifffile
fi
step build 400 env VQGAN_FAST_CUDA=1 "$PYTHON" setup.py -q build_ext --inplace
carried=$(printf '%s\n' wheels/vqgan_fast-*.whl | head -n 1)
if named libraries || { wanted build && [[ $(outcome_of build) != passed* ]]; }; then
  from='left by an earlier build, perhaps of another commit'
  if [ -e "$carried" ]; then
    wanted libraries || chosen+=" libraries"
    # Renamed, not written over: a process may have the old ones mapped.
    # shellcheck disable=SC2016
    step libraries 60 bash -c 'rm -rf build/carried && "$0" -m zipfile -e "$1" build/carried &&
      mv -f build/carried/vqgan_fast/*.so vqgan_fast/' "$PYTHON" "$carried"
    if [[ $(outcome_of libraries) == passed* ]]; then
      from="of $(basename "$carried"), SHA-256 $(sha256sum "$carried" | cut -d ' ' -f 1): its kernels are those of"
      from+=' the commit that the wheel was built from, whatever commit this report names'
    fi
  fi
  echo "libraries that are run: $from" | tee -a "$folder/log"
  note 'libraries that are run' "$from"
elif wanted build; then
  note 'libraries that are run' 'built by this call'
fi
# Without the library every test on the GPU would be skipped, and pass.
"$PYTHON" -m vqgan_fast info >>"$folder/log" 2>&1 </dev/null
loads || {
  note library 'does not load'; cat "$folder/report"; tail -n 3 "$folder/log"; exit 1; }

search=tests/cuda/test_search_on_gpu.py
# Of one test, where pytest can end it: against a kernel that hangs, only ending the process helps.
each_test=()
if "$PYTHON" -c 'import pytest_timeout' 2>/dev/null; then each_test=(--timeout 45 --timeout-method thread); fi
for way in direct exact mma wgmma auto; do
  these=$way
  case $way in mma) these='mma and not wgmma' ;; auto) these='(auto or large_codebook or unknown)' ;; esac
  if [ "$quick" = 0 ]; then
    tests search_$way 90 $search -k "$these" ${each_test[@]+"${each_test[@]}"}
  elif [ $way != auto ]; then
    tests search_$way 60 $search -k "$these and not thousand and not wrong_easily" \
      ${each_test[@]+"${each_test[@]}"}
  fi
done
usable() {  # WAY: by what its own tests found
  case $(outcome_of "search_$1") in passed* | failed*) ;; *) false ;; esac
}
if usable wgmma; then way=auto; elif usable mma; then way=mma; else way=direct; fi
[ $way = auto ] || export VQGAN_FAST_CUDA_SEARCH=$way
note 'search of the steps after' $way
ways=() last=()  # besides that one; a way that crashed ends the process that takes it, one that hung its step
for name in direct mma wgmma; do
  case $(outcome_of search_$name) in
    'ended by'* | began*) ;;
    crashed*) last+=("$name") ;;
    *) ways+=("$name") ;;
  esac
done
short=
if [ "$quick" = 1 ]; then short='not 32_bits and not compile and not 5000 and not 16384'; fi
tests ops 240 tests/cuda/test_on_gpu.py tests/cuda/test_library.py tests/cuda/test_resources.py -k "$short"
tests decode 180 tests/cuda/test_decode_on_gpu.py -k "$short"
tests soft_assign 180 tests/cuda/test_soft_assign_on_gpu.py -k "$short"
tests sampling 120 tests/cuda/test_sampling_on_gpu.py

# Speed last: what it has found so far is kept where it is cut off.
exactness=("$PYTHON" benchmarks/gpu_exactness.py --output "$folder/exactness.json")
speed=("$PYTHON" benchmarks/gpu_speed.py --output "$folder/speed.json")
ways=(--ways ${ways[@]+"${ways[@]}"}) last=(--last ${last[@]+"${last[@]}"})
if [ "$quick" = 1 ]; then
  step exactness 60 "${exactness[@]}" --rows 1e7 --blocks 1 "${ways[@]}"
  step speed 150 "${speed[@]}" --quick "${ways[@]}" "${last[@]}"
else
  step exactness 300 "${exactness[@]}" --rows 1e8 --blocks 10 "${ways[@]}"
  step speed 600 "${speed[@]}" "${ways[@]}" "${last[@]}"
fi

# Each kernel once at least: every way of the search, statistics, gradients, a decode step, soft assignment; and
# those with rings of stages long enough that these wrap.
small='every_pair_of_dtypes or strided or each_head or codebook_stats or index_outside or rings or backward'
small="$small or many_rows_of_a_code or decode_layers or decode_grid_layers or sample_logits or out_of_range"
small="$small or same_bits"
tools='memcheck racecheck synccheck initcheck' limit=600
if [ "$quick" = 1 ]; then
  limit=90 small='every_pair_of_dtypes or rings'
  [ -n "$chosen" ] || tools=memcheck
fi
# What the build and the card have, not what passed: where tests fail, the tools are to say why.
has_wgmma() {
  VQGAN_FAST_CUDA_SEARCH=wgmma timeout -k 5 60 "$PYTHON" >>"$folder/log" 2>&1 </dev/null -c 'import torch
from vqgan_fast import ops
z = torch.ones(4, 8, device="cuda")
raise SystemExit(torch.ops.vqgan_fast._nearest_code_way(z, z) != 3)'
}
wgmma=0
if [ -z "$chosen" ] && has_wgmma; then wgmma=1; fi
runs=  # of the tools
for tool in $tools; do
  runs+=" $tool"
  case $tool in
    memcheck | racecheck) if [ $wgmma = 1 ] || named "wgmma_$tool"; then runs+=" wgmma_$tool"; fi ;;
  esac
done
still=0  # to come
for name in $runs; do ! wanted "$name" || still=$((still + 1)); done
help=$(timeout -k 5 30 compute-sanitizer --help 2>&1 </dev/null)
[ -z "$runs" ] || timeout -k 5 30 compute-sanitizer --version 2>&1 </dev/null | tee -a "$folder/log"
has_option() { grep -qE -e "(^|[^-a-z])$1([^-a-z]|$)" <<<"$help"; }
sanitize() {  # NAME TOOL ARGUMENTS...: each gets its share of the time that is left
  local name=$1 tool=$2 share=$limit options=()
  shift 2
  wanted "$name" || return 0
  if [ -n "$deadline" ] && [ $(((deadline - SECONDS) / still)) -lt "$share" ]; then
    share=$(((deadline - SECONDS) / still))
  fi
  still=$((still > 1 ? still - 1 : 1))
  # torch asks the driver for what an older one has not, and goes on. (Errors of our launches are exceptions.)
  ! has_option --report-api-errors || options+=(--report-api-errors no)
  # torch's kernels are not ours to check, but write memory that initcheck would then think was never written.
  # (The option had another name before 2023.3.)
  if [ "$tool" != initcheck ]; then
    for option in --kernel-name --kernel-regex; do
      if has_option $option; then
        options+=("$option" kns=vqgan_fast)
        break
      fi
    done
  fi
  ! has_option --print-limit || options+=(--print-limit 50)  # a log of megabytes tells no more
  step "$name" "$share" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 VQGAN_FAST_TEST_POISON=0 \
    compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes application-only \
    ${options[@]+"${options[@]}"} "$PYTHON" -m pytest -v -p no:cacheprovider "$@"
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
