"""One step of a transformer with a cache on the CPU, and the kernels it consists of.

    python benchmarks/bench_decode.py                      85M (12 x 768), batch 1 and 4
    python benchmarks/bench_decode.py --layers 24 --width 1024 --output benchmarks/results

First the results are compared. Then every contender takes its turn in each round, and the medians
are printed, in milliseconds: with one thread of its processor time, so that a busy machine counts
little, with more of the wall's. Peers: the package's GPT in plain torch with its static cache, the
PyPI package taming-transformers' GPT with `sample_with_past`'s growing cache (if it is installed;
its step alone, without the sampling), and the floor: reading as many bytes as all weights have, at
the speed of a plain sum over them.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

# MKL would keep to one thread in torch's wheels, and the comparison would flatter us.
os.environ.setdefault("MKL_DYNAMIC", "FALSE")

import torch
from machine import now
from tables import Row, Tables
from torch import Tensor
from torch.nn import functional as F

from vqgan_fast import ops
from vqgan_fast.models.gpt import GPT
from vqgan_fast.models.kv_cache import KVCache

Key = TypeVar("Key")
TOP_K = 100
DTYPES = ("float32", "bfloat16", "int8")
CACHE_OF = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.bfloat16}


class Step:
    """The package's decode step behind a prefix of random keys and values."""

    def __init__(self, gpt: GPT, dtype: str, batch: int, position: int):
        self.gpt = gpt
        self.layers = ops.pack_layers(gpt.blocks, dtype)
        self.head = ops.pack_linear(gpt.head.weight, dtype)
        self.slots = torch.arange(batch)
        self.positions = torch.full((batch,), position)
        shape = (gpt.n_layer, batch, gpt.n_head, gpt.block_size, gpt.n_embd // gpt.n_head)
        self.caches = [torch.zeros(shape, dtype=CACHE_OF[dtype]) for _ in range(2)]

    def fill(self, cache: KVCache) -> None:
        self.caches[0].copy_(cache.k_cache)
        self.caches[1].copy_(cache.v_cache)

    def all_layers(self, x: Tensor) -> Tensor:
        where = (self.slots, self.positions, self.positions + 1)
        return ops.decode_layers(x, self.layers, *self.caches, *where)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.gpt.tok_emb(tokens) + self.gpt.pos_emb[0, self.positions]

    def logits(self, tokens: Tensor) -> Tensor:
        y = self.all_layers(self.embed(tokens))
        y = ops.layer_norm(y, self.gpt.ln_f.weight, self.gpt.ln_f.bias, self.gpt.ln_f.eps)
        return ops.packed_linear(y, self.head)

    def __call__(self, tokens: Tensor) -> Tensor:
        return ops.sample_logits(self.logits(tokens), self.slots, self.positions, top_k=TOP_K)[0]

    def bytes(self) -> int:
        weights, scales = self.layers.tensors()
        held = (*weights, *scales, self.head.weight, self.head.scales)
        return sum(t.nbytes for t in held if t is not None)


def taming_step(gpt: GPT, tokens: Tensor, past: Tensor) -> Callable[[], object] | None:
    """The PyPI package's step with the same weights, given `past` (layers, 2, B, H, T, Dh)."""
    try:
        import transformers

        # Newer versions dropped the name, which the package imports and the step does not use.
        vars(transformers).setdefault("top_k_top_p_filtering", None)
        from taming.modules.transformer.mingpt import GPT as TamingGPT
    except ImportError:
        return None
    config = {key: value for key, value in gpt.config.items() if not key.endswith("pdrop")}
    peer = TamingGPT(**config).eval()
    peer.load_state_dict(gpt.state_dict())

    # sample_with_past holds one piece for each earlier token; the step concatenates them.
    pieces = list(past.split(1, dim=-2))

    def step() -> Tensor:
        logits, _, _ = peer.forward_with_past(tokens[:, None], past=pieces, past_length=len(pieces))
        return logits[:, -1]

    return step


def medians(contenders: dict[Key, Callable[[], object]], rounds: int) -> dict[Key, float]:
    """Milliseconds of the thread's processor time, every contender once a round."""
    times: dict[Key, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    for _ in range(rounds):
        for name, call in contenders.items():
            start = now()
            call()
            times[name].append(1e3 * (now() - start))
    return {name: statistics.median(values) for name, values in times.items()}


@torch.inference_mode()
def kernels(options: argparse.Namespace, batch: int) -> list[Row]:
    """The ops of a step one by one, each for all layers, beside torch's for the same."""
    gpt = GPT(
        options.codes, 512, n_layer=options.layers, n_head=options.heads, n_embd=options.width
    ).eval()
    blocks, head_dim = gpt.blocks, options.width // options.heads
    x, hidden = torch.randn(batch, options.width), torch.randn(batch, 4 * options.width)
    q, k, v = torch.randn(3, batch, options.heads, head_dim)
    logits = torch.randn(batch, options.codes)
    slots, positions = torch.arange(batch), torch.full((batch,), options.position)
    cache = torch.randn(2, options.layers, batch, options.heads, 512, head_dim)
    held = cache[..., : options.position + 1, :]
    calls: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}
    for name, number, source in (("fc", 0, x), ("out", 2, hidden)):
        linears = [block.mlp[number] for block in blocks]
        for dtype in DTYPES:
            packed = [ops.pack_linear(linear.weight, dtype) for linear in linears]
            calls[f"packed_linear, {name}, {dtype}"] = (
                lambda packed=packed, linears=linears, source=source: [
                    ops.packed_linear(source, weight, linear.bias)
                    for weight, linear in zip(packed, linears, strict=True)
                ],
                lambda linears=linears, source=source: [linear(source) for linear in linears],
            )
    calls["layer_norm"] = (
        lambda: [ops.layer_norm(x, b.ln1.weight, b.ln1.bias, b.ln1.eps) for b in blocks],
        lambda: [b.ln1(x) for b in blocks],
    )
    calls["window_attention, float32"] = (
        lambda: [
            ops.window_attention(q, k, v, *layer, slots, positions, positions + 1)
            for layer in cache.unbind(1)
        ],
        lambda: [F.scaled_dot_product_attention(q[:, :, None], *layer) for layer in held.unbind(1)],
    )

    def torch_draw() -> Tensor:
        kth = logits.topk(TOP_K).values[:, -1:]
        return torch.multinomial(logits.masked_fill(logits < kth, -torch.inf).softmax(-1), 1)

    calls["sample_logits, top-k"] = (
        lambda: ops.sample_logits(logits, slots, positions, top_k=TOP_K),
        torch_draw,
    )
    found = medians(
        {(name, i): call for name, pair in calls.items() for i, call in enumerate(pair)},
        options.rounds,
    )
    return [
        {"op": name, "ms": found[name, 0], "torch, fp32": found[name, 1],
         "x torch": found[name, 1] / found[name, 0]}
        for name in calls
    ]  # fmt: skip


def overhead(step: Step, tokens: Tensor, rounds: int) -> float:
    """What the step costs outside decode_layers, packed_linear's head and sample_logits, in ms."""
    x = step.embed(tokens)
    y = step.all_layers(x)
    logits = step.logits(tokens)
    parts = medians(
        {
            "step": lambda: step(tokens),
            "layers": lambda: step.all_layers(x),
            "head": lambda: ops.packed_linear(y, step.head),
            "draw": lambda: ops.sample_logits(logits, step.slots, step.positions, top_k=TOP_K),
        },
        rounds,
    )
    return parts["step"] - parts["layers"] - parts["head"] - parts["draw"]


@torch.inference_mode()
def run(options: argparse.Namespace, batch: int) -> list[Row]:
    torch.manual_seed(0)
    position = options.position
    gpt = GPT(
        options.codes, 512, n_layer=options.layers, n_head=options.heads, n_embd=options.width
    ).eval()
    prefix = torch.randint(options.codes, (batch, position))
    tokens = torch.randint(options.codes, (batch,))
    cache = KVCache(gpt, batch)
    gpt(prefix, cache=cache, logits_from=-1)
    past = torch.stack([cache.k_cache, cache.v_cache], 1)[..., :position, :]

    def eager() -> Tensor:
        cache.truncate(position)
        return gpt(tokens[:, None], cache=cache)[:, 0]

    expected = eager()
    contenders: dict[str, Callable[[], object]] = {"torch, static cache": eager}
    peer = taming_step(gpt, tokens, past)
    if peer is not None:
        torch.testing.assert_close(peer(), expected, rtol=1e-4, atol=1e-4)
        contenders["taming-transformers"] = peer
    steps = {dtype: Step(gpt, dtype, batch, position) for dtype in DTYPES}
    for dtype, step in steps.items():
        step.fill(cache)
        tolerance = {"float32": 1e-4, "bfloat16": 3e-2, "int8": 1e-1}[dtype]
        torch.testing.assert_close(step.logits(tokens), expected, rtol=0, atol=tolerance)
        contenders[dtype] = lambda step=step: step(tokens)
        many = torch.zeros(step.bytes() // 4)
        contenders[f"{dtype}, floor"] = lambda many=many: many.sum()
    found = medians(contenders, options.rounds)
    peer_time = found.get("taming-transformers")
    rows = []
    for name, ms in found.items():
        row = {
            "step": name, "ms": ms, "floor, ms": None, "share of the floor": None, "GB/s": None,
            "x torch": found["torch, static cache"] / ms,
            "x taming": peer_time / ms if peer_time else None, "outside the kernels": None,
        }  # fmt: skip
        if name in steps:
            floor = found[f"{name}, floor"]
            row |= {
                "floor, ms": floor,
                "share of the floor": floor / ms,
                "GB/s": steps[name].bytes() / floor / 1e6,
                "outside the kernels": overhead(steps[name], tokens, options.rounds) / ms,
            }
        if not name.endswith(", floor"):
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--codes", type=int, default=1024)
    parser.add_argument("--position", type=int, default=256, help="entries in the cache")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, help="a folder for decode_<CPU>.json and .md")
    options = parser.parse_args()
    if options.codes < TOP_K:
        parser.error(f"--codes must be at least {TOP_K}, of which a step draws")
    torch.set_num_threads(options.threads)
    names = ("layers", "width", "heads", "codes", "position", "threads", "rounds")
    settings = {name: getattr(options, name) for name in names}
    tables = Tables("A step of a transformer with a cache", **settings)
    for batch in options.batch:
        tables.add(f"Batch {batch}", run(options, batch))
        tables.add(f"Batch {batch}: single ops, each for all layers", kernels(options, batch))
    name = "decode" if options.threads == 1 else f"decode_{options.threads}_threads"
    for file in tables.write(options.output, name):
        print(file)


if __name__ == "__main__":
    main()
