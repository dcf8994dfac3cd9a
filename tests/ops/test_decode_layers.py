from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqgan_fast import ops
from vqgan_fast.models.gpt import GPT
from vqgan_fast.ops import reference

LAYERS, HEADS, WIDTH, LENGTH = 2, 2, 48, 20
DTYPES = ("float32", "bfloat16", "int8")


@pytest.fixture
def gpt() -> GPT:
    gpt = GPT(30, LENGTH, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, n_unmasked=3).eval()
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    return gpt.requires_grad_(False)


def caches(*shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    shape = (LAYERS, *shape, WIDTH // HEADS)
    return [torch.full(shape, float("nan"), dtype=dtype) for _ in range(2)]


def embedded(gpt: GPT, tokens: Tensor) -> Tensor:
    return (gpt.tok_emb(tokens) + gpt.pos_emb[:, : tokens.shape[1]]).flatten(0, 1)


def test_a_prefill_and_steps_give_the_gpts_logits(gpt: GPT, level: str) -> None:
    tokens = torch.randint(30, (3, 15))
    x = embedded(gpt, tokens).unflatten(0, (3, 15))
    layers, cache = ops.pack_layers(gpt.blocks), caches(3, HEADS, LENGTH)
    slots, positions = torch.tensor([2, 0, 1])[:, None].expand(3, 15), torch.arange(15).repeat(3, 1)
    ends = (positions + 1).clamp(min=3)

    def run(columns: slice) -> Tensor:
        where = [part[:, columns].flatten() for part in (slots, positions, ends)]
        y = ops.decode_layers(x[:, columns].flatten(0, 1), layers, *cache, *where)
        return y.unflatten(0, (3, -1))

    y = torch.cat([run(slice(0, 10)), *(run(slice(t, t + 1)) for t in range(10, 15))], dim=1)
    logits = gpt.head(gpt.ln_f(y))
    torch.testing.assert_close(logits, gpt(tokens), rtol=1e-4, atol=1e-4)
    cache = caches(3, HEADS, LENGTH)
    assert torch.equal(run(slice(0, 15)), y)


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_layers_are_the_single_ops(
    gpt: GPT, dtype: str, cache_dtype: torch.dtype, level: str
) -> None:
    layers, rows = ops.pack_layers(gpt.blocks, dtype), 7
    slots, positions = torch.zeros(rows, dtype=torch.int64), torch.arange(rows)
    x = torch.randn(rows, WIDTH)
    together = caches(1, HEADS, LENGTH, dtype=cache_dtype)
    found = ops.decode_layers(x, layers, *together, slots, positions, positions + 1)
    single = caches(1, HEADS, LENGTH, dtype=cache_dtype)
    y = x
    for i in range(LAYERS):
        normed = ops.layer_norm(y, layers.ln1.weight[i], layers.ln1.bias[i], layers.eps)
        qkv = ops.packed_linear(normed, layers.qkv.layer(i), layers.qkv.bias[i])
        q, k, v = qkv.unflatten(1, (3, HEADS, -1)).unbind(1)
        cache = (single[0][i], single[1][i])
        heads = ops.window_attention(q, k, v, *cache, slots, positions, positions + 1).flatten(1)
        y = y + ops.packed_linear(heads, layers.proj.layer(i), layers.proj.bias[i])
        normed = ops.layer_norm(y, layers.ln2.weight[i], layers.ln2.bias[i], layers.eps)
        hidden = ops.packed_linear(normed, layers.fc.layer(i), layers.fc.bias[i], "gelu")
        y = y + ops.packed_linear(hidden, layers.out.layer(i), layers.out.bias[i])
    assert torch.equal(found, y)
    for one, other in zip(together, single, strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())
    plain = caches(1, HEADS, LENGTH, dtype=cache_dtype)
    weights, scales = layers.tensors()
    expected = reference.decode_layers(
        x, weights, scales, layers.eps, *plain, slots, positions, positions + 1
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def grid_arguments(rows: Tensor, columns: Tensor, width: int, dim: int) -> tuple:
    """The cells, and some angle for each cell and plane."""
    frequencies = 10.0 ** -torch.linspace(0, 2, dim // 2)
    angles = (rows + 0.5 * columns)[:, None] * frequencies
    return torch.zeros_like(rows), rows, columns, angles.cos(), angles.sin(), width, 2, 2, 1


def test_a_grid_is_the_definition_in_any_order(gpt: GPT, level: str) -> None:
    height, width, dim = 5, 6, WIDTH // HEADS
    x = torch.randn(height, width, WIDTH)
    layers = ops.pack_layers(gpt.blocks)
    weights, scales = layers.tensors()
    cells = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    waves = [cells[2 * cells[:, 0] + cells[:, 1] == t] for t in range(2 * (height - 1) + width)]
    results = []
    for steps, ring_rows in ((cells[:, None], 3), (waves, 4)):
        cache, y = caches(1, HEADS, ring_rows, width), torch.empty_like(x)
        for step in steps:
            rows, columns = step.T.contiguous()
            where = grid_arguments(rows, columns, width, dim)
            y[rows, columns] = ops.decode_grid_layers(x[rows, columns], layers, *cache, *where)
        results.append(y)
    assert torch.equal(*results)
    cache, plain = caches(1, HEADS, 3, width), torch.empty_like(x)
    for cell in cells[:, None]:
        rows, columns = cell.T.contiguous()
        where = grid_arguments(rows, columns, width, dim)
        plain[rows, columns] = reference.decode_grid_layers(
            x[rows, columns], weights, scales, layers.eps, *cache, *where
        )
    torch.testing.assert_close(results[0], plain, rtol=1e-4, atol=1e-4)


def test_many_rows_are_the_same_bits_as_a_few(gpt: GPT, level: str) -> None:
    """More rows than are copied into tiles together, each in a slot of its own."""
    x, layers = torch.randn(1000, WIDTH), ops.pack_layers(gpt.blocks)
    slots, positions = torch.arange(1000), torch.zeros(1000, dtype=torch.int64)

    def run(rows: slice) -> Tensor:
        where = (slots[rows], positions[rows], positions[rows] + 1)
        return ops.decode_layers(x[rows], layers, *caches(1000, HEADS, 1), *where)

    together = run(slice(0, 1000))
    for rows in (slice(0, 4), slice(479, 482), slice(498, 502), slice(999, 1000)):
        assert torch.equal(together[rows], run(rows))


@pytest.mark.usefixtures("restore_threads")
def test_threads_change_nothing(gpt: GPT) -> None:
    x, layers = torch.randn(9, WIDTH), ops.pack_layers(gpt.blocks)
    slots, positions = torch.zeros(9, dtype=torch.int64), torch.arange(9)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        cache = caches(1, HEADS, LENGTH)
        results.append(ops.decode_layers(x, layers, *cache, slots, positions, positions + 1))
    assert all(torch.equal(result, results[0]) for result in results)


def test_bad_input_is_named(gpt: GPT) -> None:
    layers, cache = ops.pack_layers(gpt.blocks), caches(1, HEADS, LENGTH)
    x, zero = torch.zeros(1, WIDTH), torch.zeros(1, dtype=torch.int64)

    def fails(message: str, *, x: Tensor = x, cache: list = cache, position: Tensor = zero) -> None:
        with pytest.raises(RuntimeError, match=message):
            ops.decode_layers(x, layers, *cache, zero, position, zero + 1)

    fails(r"x must be \(R, C\) with C = 48 as the layers have it", x=torch.zeros(1, 47))
    fails(r"positions must lie in \[0, 20\), got 20 for row 0", position=zero + LENGTH)
    fails(r"k_cache must be \(L, S, H, \.\.\., Dh\) with L = 2", cache=[c[:1] for c in cache])
    fails(
        r"v_cache must be contiguous \(layers, S, H, L, Dh\)", cache=[cache[0], cache[1][..., :8]]
    )
    with pytest.raises(ValueError, match="blocks must hold at least one layer"):
        ops.pack_layers([])
    with pytest.raises(ValueError, match="blocks must have one eps"):
        gpt.blocks[1].ln2.eps = 1e-3
        ops.pack_layers(gpt.blocks)


def test_what_is_no_tensor_or_not_packed_is_named(gpt: GPT) -> None:
    layers, cache = ops.pack_layers(gpt.blocks), caches(1, HEADS, LENGTH)
    x, zero = torch.zeros(1, WIDTH), torch.zeros(1, dtype=torch.int64)
    for change, message in (
        ({"layers": gpt.blocks}, "layers must be PackedLayers, as pack_layers .* got ModuleList"),
        ({"x": x.numpy()}, r"x must be a torch\.Tensor, got numpy\.ndarray"),
        ({"k_cache": None}, r"k_cache must be a torch\.Tensor, got None"),
        ({"slots": [0]}, r"slots must be a torch\.Tensor, got builtins\.list"),
    ):
        arguments = {"x": x, "layers": layers, "slots": zero, "positions": zero, "ends": zero + 1}
        arguments |= {"k_cache": cache[0], "v_cache": cache[1]}
        with pytest.raises(TypeError, match=message):
            ops.decode_layers(**arguments | change)
    where = grid_arguments(zero, zero, 4, WIDTH // HEADS)
    with pytest.raises(TypeError, match=r"layers must be PackedLayers, .* got ModuleList"):
        ops.decode_grid_layers(x, gpt.blocks, *caches(1, HEADS, 3, 4), *where)
    for blocks, message in (
        (gpt, "blocks must be the layers of a GPT, got GPT"),
        ([torch.nn.Linear(2, 2)], "blocks must have ln1 with a weight and a bias, .* got Linear"),
        ([x.numpy()], "blocks must have ln1 .* got ndarray"),
    ):
        with pytest.raises(TypeError, match=message):
            ops.pack_layers(blocks)
