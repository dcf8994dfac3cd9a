#!/usr/bin/env bash
# One call on a machine with an NVIDIA GPU: builds for that GPU, runs the tests of the CUDA ops, runs the
# kernels under compute-sanitizer, times the ops, and writes benchmarks/results/gpu_<card>.json.
#
#   benchmarks/gpu_check.sh [--quick]      --quick: memcheck alone, and small shapes
#
# PYTHON names the interpreter (default .venv/bin/python, made by `make test`).
# A step that fails is told in the file and in the exit status; the steps after it still run.
# This script has not run on a GPU yet; docs/gpu_status.md says what has.
set -uo pipefail
cd "$(dirname "$0")/.."
export QUICK=0 PYTHON="${PYTHON:-.venv/bin/python}"
case "${1-}" in
  '') ;;
  --quick) QUICK=1 ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
command -v nvidia-smi >/dev/null || { echo 'nvidia-smi was not found: this needs an NVIDIA GPU' >&2; exit 1; }

failed=0
steps=()
step() {  # step NAME COMMAND...: runs it and keeps "NAME=passed", "NAME=failed" or "NAME=not found"
  local name=$1 outcome=passed
  shift
  echo "== $name: $*"
  if ! command -v "$1" >/dev/null; then
    outcome='not found'
  elif ! "$@"; then
    outcome=failed
  fi
  [ "$outcome" = passed ] || failed=1
  steps+=("$name=$outcome")
  echo "== $name: $outcome"
}

step build env VQGAN_FAST_CUDA=1 "$PYTHON" setup.py build_ext --inplace
step tests "$PYTHON" -m pytest -q -rs tests/cuda
small='every_dimension or each_head or stats or backward'
tools='memcheck racecheck synccheck initcheck'
[ "$QUICK" = 0 ] || tools=memcheck
for tool in $tools; do
  step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
    "$PYTHON" -m pytest -q tests/cuda/test_on_gpu.py -k "$small"
done

"$PYTHON" - "${steps[@]}" <<'PYTHON' || failed=1
"""Times the ops and writes the file. Times are medians over runs, by CUDA events, with a warm L2."""
import json, os, re, statistics, subprocess, sys
from pathlib import Path

import torch
from vqgan_fast import ops
from vqgan_fast._library import load_libraries

assert torch.cuda.is_available(), "torch sees no GPU"
for library in load_libraries():
    assert library.loaded, f"{library.name}: {library.reason}"
card = torch.cuda.get_device_name()
shapes = [(256, 1024, 256), (65536, 8192, 8), (65536, 16384, 256), (8192, 262144, 256)]
shapes = shapes[:2] if os.environ["QUICK"] == "1" else shapes


def milliseconds(run, runs=10):
    times = []
    for i in range(runs + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times += [start.elapsed_time(end)] if i >= 3 else []
    return {"median_ms": statistics.median(times), "min_ms": min(times), "max_ms": max(times)}


def step(x, e):
    z_q, _, commitment, codebook_loss = ops.vector_quantize(x, e)
    torch.autograd.grad((z_q.sum() + commitment + codebook_loss), (x, e))


results = []
for n, k, d in shapes:
    for dtype in (torch.float32, torch.bfloat16):
        z, codebook = (torch.randn(m, d, device="cuda").to(dtype) for m in (n, k))
        indices = ops.nearest_code(z, codebook, return_distance=False)
        rows = torch.arange(0, n, max(1, n // 256))
        expected = ops.nearest_code(z[rows].cpu(), codebook.cpu(), return_distance=False)
        x, e = (t.clone().requires_grad_() for t in (z, codebook))
        half_norms = 0.5 * codebook.square().sum(1)
        runs = {
            "nearest_code": lambda: ops.nearest_code(z, codebook),
            "vector_quantize forward + backward": lambda: step(x, e),
            "codebook_stats": lambda: ops.codebook_stats(z, indices, k),
            "torch addmm + argmin": lambda: torch.addmm(half_norms, z, codebook.T, alpha=-1).argmin(1),
            "torch cdist + argmin": lambda: torch.cdist(z.float(), codebook.float()).argmin(1),
        }
        for name, run in runs.items():
            row = {"op": name, "N": n, "K": k, "D": d, "dtype": str(dtype)}
            try:
                row |= milliseconds(run)
            except torch.OutOfMemoryError:
                row["error"] = "out of memory"
            row["indices_equal_cpu"] = bool(torch.equal(indices[rows].cpu(), expected))
            results.append(row)
            print(row)

commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
steps = dict(item.split("=", 1) for item in sys.argv[1:])
report = {"card": card, "torch": torch.__version__, "cuda": torch.version.cuda, "commit": commit,
          "quick": os.environ["QUICK"] == "1", "steps": steps, "results": results}
path = Path("benchmarks/results") / f"gpu_{re.sub('[^A-Za-z0-9]+', '_', card)}.json"
path.parent.mkdir(exist_ok=True)
path.write_text(json.dumps(report, indent=1) + "\n")
print(f"wrote {path}")
sys.exit(not all(row["indices_equal_cpu"] for row in results))
PYTHON
exit "$failed"
