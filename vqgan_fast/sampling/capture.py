"""Steps as CUDA graphs: a step of a few tokens is hundreds of launches, one graph is one.

Written from the documentation of CUDA graphs and never run on a card: `docs/gpu_status.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from ..ops.registration import has_kernel

WARM_UP = 2  # runs outside the graph: nothing in it may be loaded or allocated for the first time
OPS = ("packed_linear", "layer_norm", "decode_layers", "decode_grid_layers", "sample_logits")


class CapturedSteps:
    """Runs steps, on a CUDA device from a graph for each combination of shapes and constants.

    A step must write its results in place, give the same when it is run twice, and not wait for the
    device. Where there is no CUDA, or an op has no kernel there, steps simply run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_on = device.type == "cuda" and all(has_kernel(op, device.type) for op in OPS)
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, list[Tensor]]] = {}
        self.seen: set[tuple] = set()
        # Nothing in a graph's memory outlives its step, and steps follow each other on one stream:
        # all graphs share their memory.
        self.pool: tuple[int, int] | None = None
        self.aside: torch.cuda.Stream | None = None

    def __call__(
        self, step: Callable[[list[Tensor]], None], inputs: list[Tensor], key: Hashable
    ) -> None:
        """step(inputs); the key names the constants that the step holds besides."""
        if not self.is_on:
            step(inputs)
            return
        key = (key, *(tensor.shape for tensor in inputs))
        if key not in self.graphs:
            if key not in self.seen:  # most often a shape comes again and again; some come once
                self.seen.add(key)
                step(inputs)
                return
            self.graphs[key] = self._capture(step, inputs)
        graph, static = self.graphs[key]
        for held, new in zip(static, inputs, strict=True):
            held.copy_(new, non_blocking=True)
        graph.replay()

    def _capture(
        self, step: Callable[[list[Tensor]], None], inputs: list[Tensor]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
        static = [tensor.clone() for tensor in inputs]
        # Streams are of the current device, and torch's own stream for captures of the first that
        # captured; what runs on another device would run at once and be missing in the graph.
        with torch.cuda.device(self.device):
            if self.aside is None:
                self.aside, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
            self.aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.aside):
                for _ in range(WARM_UP):
                    step(static)
            torch.cuda.current_stream().wait_stream(self.aside)
            graph = torch.cuda.CUDAGraph()
            # By default a thread that allocates, pins or asks for an event meanwhile (a loader's
            # does, that of collectives too) gets an error, and so does the capture.
            with torch.cuda.graph(
                graph, pool=self.pool, stream=self.aside, capture_error_mode="thread_local"
            ):
                step(static)
        return graph, static
