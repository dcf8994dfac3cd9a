"""What the search and the moving averages see: ties, padding, types, compilation."""

from __future__ import annotations

import pytest
import torch
from vq_pytorch_pairs import Pair, assert_same, assert_same_state, call_alike, pair

from vqgan_fast.compat.vector_quantize_pytorch import ResidualVQ, SimVQ, VectorQuantize, search


def distances(latents: torch.Tensor, codebook: torch.Tensor, cosine: bool) -> torch.Tensor:
    """In fp64: (H, N, K), the smaller the better."""
    latents, codebook = latents.double(), codebook.double()
    if cosine:
        return -latents @ codebook.mT
    return (latents.unsqueeze(2) - codebook.unsqueeze(1)).square().sum(-1)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_where_the_package_differs_its_code_is_farther(cosine: bool, seed: int) -> None:
    """Codes in close pairs, so that fp32 cannot always tell."""
    modules = pair("VectorQuantize", seed, dim=16, codebook_size=256, use_cosine_sim=cosine)
    codes = modules[0].codebook.clone()
    codes[128:] = codes[:128] + 1e-7 * torch.randn(128, 16)
    for module in modules:
        module.eval().codebook = codes
    x = torch.randn(1, 4000, 16)
    theirs, own = (result[1][0] for result in call_alike(modules, 0, x))
    latents = modules[1]._codebook.transform_input(x)
    measured = distances(latents, codes[None], cosine)[0]
    assert torch.equal(measured.argmin(-1), own)
    differ = theirs != own
    rows = torch.arange(len(own))
    assert (measured[rows, theirs] > measured[rows, own])[differ].all()
    print(f"the package's fp32 chose a farther code for {differ.float().mean():.2%} of latents")
    assert 0 < differ.float().mean() < 0.6


def test_inner_products_with_codes_of_any_length() -> None:
    """Codes that are not of length 1: a moving average without latents shrinks to nothing."""
    modules = pair("VectorQuantize", 0, dim=8, codebook_size=64, use_cosine_sim=True)
    codes = modules[0].codebook * torch.logspace(-9, 1, 64)[:, None]
    codes[5] = 0
    for module in modules:
        module.eval().codebook = codes
    theirs, own = call_alike(modules, 0, torch.randn(2, 500, 8))
    assert_same(own, theirs)
    assert len(own[1].unique()) > 1
    # And by nothing but the inner product, with codes and latents of any length.
    latents, codes = torch.randn(2, 300, 8), torch.randn(2, 50, 8)
    expected = distances(latents, codes, cosine=True).argmin(-1)
    assert torch.equal(search.nearest(latents, codes, cosine=True), expected)


def test_unused_codes_under_cosine_similarity_after_many_steps() -> None:
    modules = pair("VectorQuantize", 0, dim=8, codebook_size=64, use_cosine_sim=True, decay=0.3)
    x = torch.randn(1, 10, 8)  # few latents: most codes are never chosen
    for step in range(60):
        call_alike(modules, step, x)
    assert modules[1].codebook.norm(dim=-1).min() < 0.9
    assert_same_state(modules)
    theirs, own = call_alike(modules, 0, torch.randn(1, 500, 8))
    assert_same(own[1], theirs[1])


@pytest.mark.parametrize("heads", [1, 3])
def test_statistics_leave_masked_latents_out(heads: int) -> None:
    latents = torch.randn(heads, 2, 50, 4)
    indices = torch.randint(7, (heads, 2, 50))
    mask = torch.rand(heads, 2, 50) < 0.5
    latents[~mask] = torch.nan
    counts, sums = search.statistics(latents, indices, mask, 7)
    for head in range(heads):
        for code in range(7):
            chosen = latents[head][mask[head] & (indices[head] == code)]
            assert counts[head, code] == len(chosen)
            assert_same(sums[head, code], chosen.sum(0), atol=1e-6)


def quantizers(**options: object) -> Pair:
    return pair("VectorQuantize", 0, **{"dim": 16, "codebook_size": 32} | options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"use_cosine_sim": True}], ids=str)
def test_half_precision_latents(dtype: torch.dtype, options: dict) -> None:
    modules = quantizers(**options)
    for step in range(3):
        x = torch.randn(2, 48, 16).to(dtype)
        theirs, own = call_alike(modules, step, x)
        assert [r.dtype for r in own] == [r.dtype for r in theirs]
        assert_same(own, theirs, rtol=1e-2, atol=1e-2)
        assert torch.equal(own[1], theirs[1])
    assert_same_state(modules)


def test_double_precision_stays_double() -> None:
    """The package rounds to fp32; the same to its precision."""
    modules = tuple(module.double() for module in quantizers())
    x = torch.randn(2, 48, 16, dtype=torch.float64)
    theirs, own = call_alike(modules, 0, x)
    assert own[0].dtype == theirs[0].dtype == torch.float64
    assert_same(own[:2], theirs[:2])
    quantized, indices, _ = modules[1].eval()(x)
    assert torch.equal(quantized, modules[1].codebook[indices])


@pytest.mark.parametrize(
    "options", [{}, {"codebook_dim": 8}, {"use_cosine_sim": True}, {"heads": 2}], ids=str
)
def test_autocast(options: dict) -> None:
    """The codebook is searched and updated in fp32, by the bf16 values that autocast gives it."""
    module = VectorQuantize(dim=16, codebook_size=32, **options)
    layer = torch.nn.Linear(16, 16)
    data = torch.randn(2, 48, 16)
    before = module._codebook.embed.clone()
    with torch.autocast("cpu", torch.bfloat16):
        x = layer(data)
        quantized, indices, loss = module(x)
    assert x.dtype == torch.bfloat16 and loss.dtype == torch.float32
    assert module._codebook.embed.dtype == torch.float32
    (quantized.float().square().mean() + loss).backward()
    assert layer.weight.grad.isfinite().all()

    codebook, layout = module._codebook, module.layout
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        latents = codebook.transform_input(layout.split_heads(module.project_in(x)))
    measured = distances(latents.flatten(1, -2), before, module.use_cosine_sim)
    expected = measured.argmin(-1).view(latents.shape[:-1])
    assert torch.equal(indices, layout.join_index_heads(expected))


COMPILED = {
    "images, projections, heads": lambda: VectorQuantize(
        dim=16, codebook_size=32, heads=2, codebook_dim=4, accept_image_fmap=True
    ),
    "cosine, separate heads": lambda: VectorQuantize(
        dim=16, codebook_size=32, heads=2, separate_codebook_per_head=True, use_cosine_sim=True
    ),
    "learned": lambda: VectorQuantize(
        dim=16, codebook_size=32, learnable_codebook=True, ema_update=False
    ),
    "residual": lambda: ResidualVQ(dim=16, num_quantizers=2, codebook_size=32),
    "sim": lambda: SimVQ(dim=16, codebook_size=32),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compile_fullgraph(name: str) -> None:
    torch.manual_seed(0)
    module = COMPILED[name]()
    torch.manual_seed(0)
    compiled = COMPILED[name]()
    # As far as the graphs: tests/ops/test_registration.py goes on to code with the ops in them.
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    shape = (2, 16, 4, 6) if "images" in name else (2, 24, 16)
    # Compiling takes seconds: evaluation, a part of training's graph, only where shapes are worst.
    for mode in (True, False) if "images" in name else (True,):
        for module_ in (module, compiled):
            module_.train(mode)
        x = torch.randn(shape, requires_grad=True)
        results = module(x), run(x)
        assert_same(results[1], results[0])
        if mode:
            gradients = [torch.autograd.grad(r[0].square().sum() + r[2].sum(), x) for r in results]
            assert_same(gradients[1], gradients[0])
    assert_same_state((module, compiled))


def test_a_compiled_loss_that_nothing_learns_from() -> None:
    """Eager's can be differentiated all the same; a graph's cannot."""
    module, x = VectorQuantize(dim=16, codebook_size=32), torch.randn(2, 24, 16)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    assert module(x)[2].requires_grad
    loss = compiled(x)[2]
    assert not loss.requires_grad
    encoder = torch.zeros((), requires_grad=True)
    (encoder + loss).backward()
    assert encoder.grad == 1
