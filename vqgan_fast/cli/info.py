"""`vqgan-fast info`: what is installed, what was loaded, what is missing and what to do."""

from __future__ import annotations

import argparse
import json

SUMMARY = "versions, SIMD level, GPU support, and what loaded"
DESCRIPTION = """\
Tells what this installation can do: versions, the SIMD level that the CPU kernels chose, the GPU
architectures that were compiled, which of the two op libraries loaded and, where one did not, why;
the driver, the cards and which of the compiled code each runs, the backends for several processes;
and last what is missing on this machine and what to do about it. Run it on every node before a
training run, and put its output into a bug report.
"""
EXAMPLES = """\
  vqgan-fast info
  vqgan-fast info --json | jq .versions.torch
  srun --output='node-%N.json' vqgan-fast info --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    from .. import info

    collected = info.collect()
    text = json.dumps(collected, indent=2) if args.json else info.render(collected)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader has seen enough
        raise
    except OSError as error:
        raise OSError(f"stdout cannot be written: {error.strerror}") from error
