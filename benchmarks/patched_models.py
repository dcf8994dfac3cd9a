"""Models of diffusers and transformers before and after `vqgan_fast.patch`.

    python benchmarks/patched_models.py [--rounds 5] [--output benchmarks/results]

prints a table, and keeps it: the time of the whole model and of its quantiser, on one thread and
counted in that thread's CPU time (medians of rounds that alternate between before and after), what
the quantiser holds at its peak, and which share of the indices differs: where it does, ours is the
nearer code in fp64, which is checked. The weights are random and the networks thin; the codebook
and the grid are those of the released models, and the codes lie among the latents.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from peak_memory import peak_bytes
from tables import Row, Tables
from torch import Tensor, nn

import vqgan_fast


class Case(NamedTuple):
    name: str
    model: nn.Module
    quantizer: str
    run: Callable[[nn.Module, Tensor], Tensor]
    side: int


def diffusers_vq() -> Case:
    """The VQ-f4 autoencoder of latent diffusion in diffusers' class."""
    from diffusers.models.autoencoders.vq_model import VQModel

    stages = 3
    model = VQModel(
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        block_out_channels=(32, 32, 32),
        num_vq_embeddings=8192,
        mid_block_add_attention=False,
    )
    return Case("diffusers VQModel", model, "quantize", lambda m, x: m(x).sample, 256)


def chameleon() -> Case:
    from transformers.models.chameleon.configuration_chameleon import ChameleonVQVAEConfig
    from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE

    model = ChameleonVQVAE(ChameleonVQVAEConfig(base_channels=32, num_res_blocks=1))
    return Case("Chameleon", model, "quantize", lambda m, x: m.encode(x).image_tokens, 512)


def janus() -> Case:
    from transformers.models.janus.configuration_janus import JanusVQVAEConfig
    from transformers.models.janus.modeling_janus import JanusVQVAE

    model = JanusVQVAE(JanusVQVAEConfig(base_channels=32, num_res_blocks=1))
    return Case("Janus", model, "quantize", lambda m, x: m.encode(x).image_tokens, 384)


class Clock:
    """CPU time of the quantiser inside the model, by its hooks, which stay where they are."""

    def __init__(self, quantizer: nn.Module) -> None:
        self.seconds = 0.0
        self.latents: Tensor | None = None
        self.indices: Tensor | None = None
        quantizer.register_forward_pre_hook(self._start)
        quantizer.register_forward_hook(self._stop)

    def _start(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.latents = args[0].detach()
        self.seconds = -time.thread_time()

    def _stop(self, module: nn.Module, args: tuple, output: tuple) -> None:
        self.seconds += time.thread_time()
        info = output[2]  # indices, or (perplexity, one-hot, indices)
        self.indices = (info[2] if isinstance(info, tuple) else info).flatten()


def spread_codes(codebook: Tensor, latents: Tensor) -> None:
    """Puts the codes among the latents, as training does."""
    rows = latents.movedim(1, -1).flatten(0, -2)
    rows = rows[torch.randint(len(rows), (len(codebook),))]
    codebook.copy_(rows + 0.3 * rows.std() * torch.randn_like(codebook))


def differing_share(latents: Tensor, codebook: Tensor, indices: dict[bool, Tensor]) -> float:
    """The share of different indices; raises if one of the peer's is nearer."""
    rows = latents.movedim(1, -1).flatten(0, -2).double()
    before, after = (
        (rows - codebook[indices[patched]].double()).square().sum(1) for patched in (False, True)
    )
    if (after > before).any():
        raise AssertionError("a code of the unpatched model is nearer")
    return (indices[False] != indices[True]).double().mean().item()


@torch.no_grad()
def measure(case: Case, rounds: int) -> Row:
    model = case.model.eval()
    quantizer = model.get_submodule(case.quantizer)
    clock = Clock(quantizer)
    x = torch.randn(1, 3, case.side, case.side)
    case.run(model, x)
    spread_codes(quantizer.embedding.weight, clock.latents)
    indices: dict[bool, Tensor] = {}
    whole: dict[bool, list[float]] = {False: [], True: []}
    alone: dict[bool, list[float]] = {False: [], True: []}
    held: dict[bool, int] = {}
    for number in range(2 * rounds + 2):
        patched = number % 2 == 1
        if patched:
            vqgan_fast.patch(model, strict=True)
        else:
            vqgan_fast.unpatch(model)
        start = time.thread_time()
        case.run(model, x)
        seconds = time.thread_time() - start
        indices[patched] = clock.indices
        if number < 2:  # the first of each warms up
            latents = clock.latents
            held[patched], _ = peak_bytes(lambda latents=latents: list(quantizer(latents)[:2]))
        else:
            whole[patched].append(seconds)
            alone[patched].append(clock.seconds)
    share = differing_share(clock.latents, quantizer.embedding.weight, indices)
    milliseconds = {
        name: [1e3 * statistics.median(times[patched]) for patched in (False, True)]
        for name, times in (("model", whole), ("quantiser", alone))
    }
    rows = clock.latents.numel() // clock.latents.shape[1]
    codes, dim = quantizer.embedding.weight.shape
    return {
        "model": case.name,
        "N x K x D": f"{rows} x {codes} x {dim}",
        "model before, ms": milliseconds["model"][0],
        "model after": milliseconds["model"][1],
        "quantiser before, ms": milliseconds["quantiser"][0],
        "quantiser after": milliseconds["quantiser"][1],
        "quantiser holds before, MiB": held[False] / 2**20,
        "holds after": held[True] / 2**20,
        "indices that differ": f"{share:.3%}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--output", type=Path, help="a folder for patched_models_<CPU>.json and .md"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tables = Tables("Models before and after patch", rounds=options.rounds, threads=1)
    rows = [measure(build(), options.rounds) for build in (diffusers_vq, chameleon, janus)]
    tables.add("No gradient", rows)
    for file in tables.write(options.output, "patched_models"):
        print(file)


if __name__ == "__main__":
    main()
