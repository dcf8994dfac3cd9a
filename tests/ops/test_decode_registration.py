"""How the ops of a decode step sit in torch: opcheck, and a whole step compiled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from vqgan_fast import ops
from vqgan_fast.models.gpt import GPT

LAYERS, HEADS, DIM, CODES = 2, 2, 16, 20
WIDTH = HEADS * DIM


@pytest.fixture
def gpt() -> GPT:
    return GPT(CODES, 12, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH).eval().requires_grad_(False)


def calls(gpt: GPT) -> list[tuple]:
    library = torch.ops.vqgan_fast
    x, (q, k, v) = torch.randn(3, WIDTH), torch.randn(3, 3, HEADS, DIM)
    slots, positions = torch.tensor([1, 0, 1]), torch.tensor([0, 0, 1])
    window = [torch.randn(LAYERS, 2, HEADS, 6, DIM) for _ in range(2)]
    ring = [torch.randn(LAYERS, 2, HEADS, 3, 5, DIM) for _ in range(2)]
    layers, quantized = ops.pack_layers(gpt.blocks), ops.pack_layers(gpt.blocks, "int8")
    packed, int8 = ops.pack_linear(torch.randn(9, WIDTH)), ops.pack_linear(x, "int8")
    angles = (torch.randn(3, DIM // 2), torch.randn(3, DIM // 2))
    where, cells = (slots, positions, positions + 1), (slots, positions, slots)
    logits, seeds = torch.randn(3, 9), (torch.arange(3), torch.arange(3))
    norm = (torch.ones(WIDTH), torch.zeros(WIDTH))
    return [
        (library.packed_linear, (x, *packed[:2], torch.randn(9), 9, True)),
        (library.packed_linear, (x, *int8[:2], None, 3, False)),
        (library.layer_norm, (x, *norm, 1e-5)),
        (library.window_attention, (q, k, v, window[0][0], window[1][0], *where)),
        (library.grid_attention, (q, k, v, ring[0][0], ring[1][0], *cells, 4, 2, 1, 1)),
        (library.decode_layers, (x, *layers.tensors(), 1e-5, *window, *where)),
        (
            library.decode_grid_layers,
            (x, *quantized.tensors(), 1e-5, *ring, *cells, *angles, 4, 2, 1, 1),
        ),
        (library.sample_logits, (logits, *seeds, logits.flip(0), 2.0, 1.0, 3, 0.5, -9.0)),
        (library.sample_logits, (logits, *seeds, None, 1.0, 0.0, 0, 1.0, -9.0)),
    ]


def test_opcheck(gpt: GPT) -> None:
    for op, arguments in calls(gpt):
        torch.library.opcheck(op.default, arguments)


def test_the_fake_kernels_refuse_what_the_kernels_refuse(gpt: GPT) -> None:
    for op, arguments in calls(gpt):
        fails = [arguments[0][..., :-1].contiguous(), *arguments[1:]]
        if op is torch.ops.vqgan_fast.sample_logits:
            fails = [arguments[0].double(), *arguments[1:]]
        for device in ("cpu", "meta"):
            moved = tree_map_only(Tensor, lambda t, to=device: t.to(to), fails)
            with pytest.raises(RuntimeError):
                op(*moved)


def test_a_whole_step_compiles(gpt: GPT) -> None:
    layers, head = ops.pack_layers(gpt.blocks), ops.pack_linear(gpt.head.weight)
    zeros = torch.zeros(2, dtype=torch.int64)

    def step(tokens: Tensor, position: Tensor, k_cache: Tensor, v_cache: Tensor) -> Tensor:
        positions, slots = zeros + position, torch.arange(2)
        x = gpt.tok_emb(tokens) + gpt.pos_emb[0, positions]
        x = ops.decode_layers(x, layers, k_cache, v_cache, slots, positions, positions + 1)
        logits = ops.packed_linear(ops.layer_norm(x, gpt.ln_f.weight, gpt.ln_f.bias), head)
        return ops.sample_logits(logits, slots, positions, top_k=5)[0]

    def run(step) -> list[Tensor]:
        caches = [torch.zeros(LAYERS, 2, HEADS, 12, DIM) for _ in range(2)]
        tokens, drawn = zeros, []
        for position in range(4):
            tokens = step(tokens, torch.tensor(position), *caches)
            drawn.append(tokens)
        return [*drawn, *caches]

    expected, found = run(step), run(torch.compile(step, fullgraph=True, backend="aot_eager"))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_draw_compiles_for_any_batch_and_temperature() -> None:
    def draw(logits: Tensor, cells: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        return ops.sample_logits(logits, cells, cells, temperature, top_k=4, top_p=0.9, min_p=0.1)

    compiled = torch.compile(draw, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows, temperature in ((2, 1.0), (5, 0.7), (3, 0.0)):
        arguments = (torch.randn(rows, CODES), torch.arange(rows), temperature)
        found, expected = compiled(*arguments), draw(*arguments)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_grid_step_compiles() -> None:
    q = torch.randn(2, HEADS, DIM)
    cells = (torch.arange(2), torch.tensor([3, 4]), torch.tensor([0, 2]))

    def attend(q: Tensor, k_cache: Tensor, v_cache: Tensor) -> Tensor:
        return ops.grid_attention(q, q, q, k_cache, v_cache, *cells, 3, up=2, left=2, right=1)

    caches = [torch.randn(2, HEADS, 4, 3, DIM) for _ in range(2)]
    copies = [cache.clone() for cache in caches]
    found = torch.compile(attend, fullgraph=True)(q, *copies)
    assert torch.equal(found, attend(q, *caches))
    assert all(torch.equal(a, b) for a, b in zip(copies, caches, strict=True))
