"""Sampling against the reference's loops, a static-cache GPT-2 and the memory-bandwidth floor.

    python benchmarks/bench_sampling.py            # a 19M transformer, half a minute
    python benchmarks/bench_sampling.py --full     # 85M (12 x 768), larger grids, a condition grid
    python benchmarks/bench_sampling.py --full --output benchmarks/results     # and keep the tables

Batch 1, one thread, and a step of one window on all threads too. What is printed is seconds of the
one thread's CPU, so that a busy machine disturbs it little, of the wall with more; medians of
interleaved repeats. A large grid is timed from some passes of its plan (what the others would have
left in the cache does not change the time); the reference's loop, whose every draw is the same
work, from a few draws. The PyPI package has no sliding window: its loop is written in plain torch
on the package's GPT: 256 tokens (511 with a grid of conditions) and all of their head rows for each
draw.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

# MKL would keep to one thread in torch's wheels, and the comparison would flatter us.
os.environ.setdefault("MKL_DYNAMIC", "FALSE")

import numpy as np
import torch
from machine import all_threads, now
from tables import Tables

from vqgan_fast.models import GPT, WindowGPT
from vqgan_fast.sampling import pack
from vqgan_fast.sampling.board import Board
from vqgan_fast.sampling.draw import DrawRule
from vqgan_fast.sampling.engine import Draws, Engine
from vqgan_fast.sampling.ring_engine import RingEngine
from vqgan_fast.sampling.ring_schedule import ring_steps
from vqgan_fast.sampling.schedules import block_cells, exact_cells, wavefront_steps
from vqgan_fast.sampling.window_engine import WindowEngine
from vqgan_fast.sampling.windows import CodeGrid

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
VOCAB, WINDOW = 1024, 16
SIZES = {"1M": (2, 2, 128), "19M": (6, 8, 512), "85M": (12, 12, 768)}
GOALS = {"exact": 4, "block": 40, "native": 80}  # times the reference's loop, 85M at 32 x 32


def seconds(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds for each action, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in range(repeats + 1):
        for name, action in actions.items():
            begin = now()
            action()
            if repeat > 0:  # the first call allocates
                times[name].append(now() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def engine(model: GPT | WindowGPT, cond: torch.Tensor, grid, schedule: str, weights: str) -> Engine:
    """A run of one image whose codes are random already, so that any pass can be timed alone."""
    packed = pack(model, weights)
    codes = torch.randint(VOCAB, (1, *grid))
    draws = Draws(DrawRule(top_k=100), torch.zeros(1, dtype=torch.int64), VOCAB, None)
    unknown = np.zeros(grid, dtype=bool)
    if schedule == "native":
        steps = [list(ring_steps(unknown, model.reach, "wavefront"))]
        return RingEngine(packed, Board([(cond,)], codes, VOCAB), draws, steps, 2**34)
    code_grid = CodeGrid(*grid, WINDOW)
    cells = exact_cells(code_grid) if schedule == "exact" else block_cells(code_grid, 8)
    steps = [list(wavefront_steps(cells, unknown, WINDOW))]
    return WindowEngine(packed, Board([(cond,)], codes), draws, WINDOW, steps, 2**34)


def seconds_of_a_run(run: Engine, timed: int) -> tuple[float, float, int]:
    """CPU seconds of the whole run from some of its passes; tokens a draw; passes.

    Steps of single tokens and passes with a prefill take very different times: `timed` of either
    are taken, at equal distances, and stand for all of their kind.
    """
    all_passes = list(run.passes())
    run.advance(all_passes[0])
    kinds: dict[bool, list] = {False: [], True: []}
    for one_pass in all_passes:
        kinds[tokens_in(run, one_pass) > len(one_pass)].append(one_pass)
    spent = 0.0
    for passes in kinds.values():
        chosen = passes[:: max(len(passes) // timed, 1)]
        begin = now()
        for one_pass in chosen:
            run.advance(one_pass)
        spent += (now() - begin) * len(passes) / max(len(chosen), 1)
    tokens = sum(tokens_in(run, one_pass) for one_pass in all_passes)
    return spent, tokens / (run.board.height * run.board.width), len(all_passes)


def tokens_in(run: Engine, one_pass: list) -> int:
    if isinstance(run, RingEngine):
        return len(one_pass)
    return sum(visit.stop - visit.start for visit in one_pass)


def peer_of(model: GPT) -> torch.nn.Module:
    import taming_peer

    sizes = {name: model.config[name] for name in ("n_layer", "n_head", "n_embd")}
    peer = taming_peer.gpt_class()(VOCAB, model.block_size, **sizes)
    peer.load_state_dict(model.state_dict())
    return peer.eval()


@torch.no_grad()
def one_window(model: GPT, repeats: int, tables: Tables) -> None:
    """A step in the middle of a 16 x 16 grid, 128 tokens before it, on torch's threads."""
    peer, cond = peer_of(model), torch.zeros(1, 1, dtype=torch.int64)
    code = torch.randint(VOCAB, (1, 1))
    shape = (model.n_layer, 2, 1, model.n_head, 1, model.n_embd // model.n_head)
    past = [torch.randn(shape) for _ in range(128)]  # as the package's loop gathers them

    def sample_with_past() -> None:
        # The package's forward concatenates all that is past, its loop filters and draws.
        logits, _, _ = peer.forward_with_past(code, past=past, past_length=128)
        logits = logits[:, -1]
        kth = logits.topk(100).values[..., -1:]
        torch.multinomial(logits.masked_fill(logits < kth, -torch.inf).softmax(-1), 1)

    actions: dict[str, Callable[[], object]] = {"sample_with_past (reference)": sample_with_past}
    floors = {}
    for weights in ("float32", "bfloat16", "int8"):
        run = engine(model, cond, (WINDOW, WINDOW), "exact", weights)
        all_passes = list(run.passes())
        for one_pass in all_passes[:2]:
            run.advance(one_pass)
        actions[weights] = lambda run=run, one=all_passes[128]: run.advance(one)
        packed = run.packed
        floors[weights] = sum(
            tensor.numel() * tensor.element_size()
            for tensor in (packed.head.weight, *(p.weight for p in packed.layers[:-1]))
        )
    static = hugging_face(model)
    if static is not None:
        actions["GPT-2, static cache (transformers)"] = static
    times = seconds(actions, repeats)
    bandwidth = read_bandwidth()
    reference = times["sample_with_past (reference)"]
    rows = [
        {
            "step": name,
            "ms": 1e3 * value,
            "x reference": reference / value,
            "share of the floor": floors[name] / bandwidth / value if name in floors else None,
        }
        for name, value in times.items()
    ]
    note = f"The floor reads the weights once at {bandwidth / 1e9:.1f} GB/s, measured beside it."
    threads = torch.get_num_threads()
    where = "one thread" if threads == 1 else f"{threads} threads"
    tables.add(f"One window, 16 x 16: a step behind 128 tokens, batch 1, {where}", rows, note)


def hugging_face(model: GPT) -> Callable[[], object] | None:
    """A step of GPT-2 of the same size with a static cache; None where it cannot be made."""
    try:
        from transformers import GPT2Config, GPT2LMHeadModel, StaticCache
    except ImportError:
        print("transformers is not installed: GPT-2 is left out", file=sys.stderr)
        return None
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=257, n_layer=model.n_layer, n_head=model.n_head,
        n_embd=model.n_embd, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    gpt2 = GPT2LMHeadModel(config).eval()
    cache = StaticCache(config=config, max_cache_len=257)
    gpt2(torch.randint(VOCAB, (1, 128)), past_key_values=cache, use_cache=True)
    code, position = torch.randint(VOCAB, (1, 1)), torch.tensor([128])

    def step() -> None:
        logits = gpt2(code, past_key_values=cache, cache_position=position, use_cache=True).logits[
            :, -1
        ]
        torch.multinomial(logits.softmax(-1), 1)

    return step


def read_bandwidth() -> float:
    """Bytes a second, reading 256 MiB."""
    big = torch.ones(2**26)
    times = seconds({"read": lambda: big.sum()}, 5)
    return big.numel() * 4 / times["read"]


@torch.no_grad()
def large_grid(
    size: str, grid: tuple[int, int], spatial: bool, timed: int, repeats: int, tables: Tables
) -> None:
    """Every schedule against the reference's loop."""
    n_layer, n_head, n_embd = SIZES[size]
    shape = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd}
    cond = torch.randint(VOCAB, (1, *grid) if spatial else (1, 1))
    length = WINDOW**2 + (WINDOW**2 if spatial else 1) - 1
    model = GPT(VOCAB, length, **shape).eval()
    peer, sequence = peer_of(model), torch.randint(VOCAB, (1, length))
    reference = seconds({"loop": lambda: peer(sequence)}, repeats)["loop"] * grid[0] * grid[1]
    what = "a grid of conditions" if spatial else "one condition token"
    rows = [
        {
            "schedule": "reference's loop", "weights": "float32", "tokens a draw": length,
            "passes": grid[0] * grid[1], "CPU s": reference, "x reference": 1.0, "goal": None,
        }
    ]  # fmt: skip
    for schedule in ("exact", "block", "native"):
        made = WindowGPT(VOCAB, **shape).eval() if schedule == "native" else model
        for weights in ("float32", "bfloat16"):
            run = engine(made, cond, grid, schedule, weights)
            spent, tokens, passes = seconds_of_a_run(run, timed)
            is_goal = size == "85M" and grid == (32, 32) and weights == "float32"
            rows.append(
                {
                    "schedule": schedule, "weights": weights, "tokens a draw": tokens,
                    "passes": passes, "CPU s": spent, "x reference": reference / spent,
                    "goal": GOALS[schedule] if is_goal else None,
                }
            )  # fmt: skip
    losing = [f"{row['schedule']} in {row['weights']}" for row in rows if row["x reference"] < 1]
    note = f"Slower than the reference's loop: {', '.join(losing)}." if losing else ""
    tables.add(f"{grid[0]} x {grid[1]}, {what}, one thread", rows, note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, help="of the transformer (19M, with --full 85M)")
    parser.add_argument("--full", action="store_true", help="85M, and more grids")
    parser.add_argument("--timed", type=int, default=24, help="passes timed of each run")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, help="a folder for sampling_*.json and .md")
    args = parser.parse_args()
    if importlib.util.find_spec("taming") is None:
        sys.exit(
            "what all is compared with is not installed: "
            "pip install --no-deps taming-transformers-rom1504"
        )
    torch.manual_seed(0)
    size = args.size or ("85M" if args.full else "19M")
    n_layer, n_head, n_embd = SIZES[size]
    tables = Tables(
        f"Sampling with a {size} transformer ({n_layer} x {n_embd}, {VOCAB} codes)",
        timed=args.timed,
        repeats=args.repeats,
    )
    model = GPT(VOCAB, WINDOW**2, n_layer=n_layer, n_head=n_head, n_embd=n_embd).eval()
    for threads in sorted({1, all_threads()}):
        torch.set_num_threads(threads)
        one_window(model, args.repeats, tables)
    torch.set_num_threads(1)
    large_grid(size, (32, 32), False, args.timed, min(args.repeats, 3), tables)
    if args.full:
        large_grid(size, (32, 32), True, args.timed, 3, tables)
        large_grid(size, (64, 64), False, args.timed, 3, tables)
    for file in tables.write(args.output, f"sampling_{size}"):
        print(file)


if __name__ == "__main__":
    main()
