"""The built CUDA library, on any machine whose torch knows CUDA."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vqgan_fast
from vqgan_fast._library import CPU_LIBRARY, CUDA_LIBRARY

FOLDER = Path(vqgan_fast.__file__).parent
OPS = (
    "nearest_code",
    "vector_quantize",
    "vector_quantize_backward",
    "codebook_stats",
    "packed_linear",
    "layer_norm",
    "window_attention",
    "grid_attention",
    "decode_layers",
    "decode_grid_layers",
    "sample_logits",
    "soft_assign",
    "soft_assign_backward",
)


@pytest.mark.skipif(not (FOLDER / CUDA_LIBRARY).is_file(), reason="built without nvcc")
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no CUDA")
def test_loads_without_a_gpu_and_registers_every_op():
    # In a process of its own: this one must not keep kernels that no driver can run.
    code = f"""
import torch
for name in {(CPU_LIBRARY, CUDA_LIBRARY)}:
    torch.ops.load_library(f"{FOLDER}/{{name}}")
for op in {OPS}:
    print(op, torch._C._dispatch_has_kernel_for_dispatch_key(f"vqgan_fast::{{op}}", "CUDA"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == [word for op in OPS for word in (op, "True")], done.stderr
