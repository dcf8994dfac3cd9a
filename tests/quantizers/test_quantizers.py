"""What all quantisers share: interface, losses, gradients, layouts, compile, autocast, errors."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from latent_noise import latents
from torch import Tensor
from torch.nn import functional as F

import vqgan_fast
from vqgan_fast import VQGAN
from vqgan_fast.quantizers import QUANTIZERS, Quantizer, build_quantizer

# The Gumbel quantiser draws its codes: test_soft_quantizers.py holds it against its definition.
WITHOUT_NOISE = [name for name in QUANTIZERS if name != "gumbel"]

K, D = 30, 6
EXTRA = {
    "residual": {"num_quantizers": 3},
    "ema": {"decay": 0.9},
    "hierarchical": {"channels": 8, "num_res_blocks": 1},
}


def build(name: str, legacy: bool = False, **options) -> Quantizer:
    torch.manual_seed(0)
    quantizer = build_quantizer(name, K, D, 0.4, legacy, {**EXTRA.get(name, {}), **options})
    if name == "vector":
        quantizer.embedding.weight.data.normal_()
    if name == "residual":
        for scale, stage in enumerate(quantizer.stages, 1):
            stage.embedding.weight.data.normal_(std=1 / scale)
    if name == "hierarchical":
        for codebook in quantizer.codebooks():
            codebook.data.normal_(std=0.3)
    if name == "simvq":
        quantizer.projection.weight.data.normal_()
    return quantizer


def test_every_quantiser_is_a_name_of_the_package():
    for quantizer in QUANTIZERS.values():
        assert getattr(vqgan_fast, quantizer.__name__) is quantizer


def nearest(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `dense` gives for one codebook of plain codes."""
    rows = z.movedim(1, -1)
    indices = (rows.unsqueeze(-2) - codes).square().sum(-1).argmin(-1)
    e = codes[indices]
    z_q = (rows + (e - rows).detach()).movedim(-1, 1)
    return z_q, F.mse_loss(rows, e.detach()), F.mse_loss(e, rows.detach()), indices


def dense(name: str, quantizer: Quantizer, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z_q, commitment loss, codebook loss, indices by the definition, in plain torch."""
    rows = z.movedim(1, -1)
    if name == "residual":
        residual, losses, chosen, total = rows, [], [], 0
        for stage in quantizer.stages:
            weight = stage.embedding.weight
            indices = (residual.unsqueeze(-2) - weight).square().sum(-1).argmin(-1)
            e = weight[indices]
            losses.append(
                torch.stack([F.mse_loss(residual, e.detach()), F.mse_loss(e, residual.detach())])
            )
            residual, total = residual - e.detach(), total + e
            chosen.append(indices)
        commitment, codebook_loss = torch.stack(losses).mean(0)
        indices, e = torch.stack(chosen, -1), total
    elif name == "hierarchical":
        t, total = quantizer.down(z), torch.zeros(2)
        t_q, *losses, upper = nearest(t, quantizer.upper.embedding.weight)
        total = total + torch.stack(losses)
        b = quantizer.join(torch.cat([z, quantizer.up(t_q)[..., :4, :5]], 1))
        b_q, *losses, lower = nearest(b, quantizer.lower.embedding.weight)
        z_q = quantizer.merge(torch.cat([b_q, quantizer.lift(t_q)[..., :4, :5]], 1))
        above = upper[:, [0, 0, 1, 1]][:, :, [0, 0, 1, 1, 2]]
        return z_q, *(total + torch.stack(losses)), torch.stack([above, lower], -1)
    elif name == "index_propagation":
        codes = quantizer.embedding.weight
        logits = rows @ codes.T
        indices = logits.argmax(-1)
        e = codes[indices]
        soft = logits.softmax(-1) @ codes.detach()
        commitment, codebook_loss = F.mse_loss(rows, e.detach()), F.mse_loss(e, rows.detach())
        return (e + (soft - soft.detach())).movedim(-1, 1), commitment, codebook_loss, indices
    else:
        codes = quantizer.embedding.weight
        if name == "cosine":
            rows, codes = F.normalize(rows, dim=-1), F.normalize(codes, dim=-1)
        if name == "simvq":
            codes = codes @ quantizer.projection.weight.T
        indices = (rows.unsqueeze(-2) - codes).square().sum(-1).argmin(-1)
        e = codes[indices]
        commitment, codebook_loss = F.mse_loss(rows, e.detach()), F.mse_loss(e, rows.detach())
    z_q = rows + (e - rows).detach()
    return z_q.movedim(-1, 1), commitment, codebook_loss, indices


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", WITHOUT_NOISE)
def test_equals_its_definition(name: str, legacy: bool, channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    weight = latents(2, D, 4, 5, seed=2)
    results, gradients = [], []
    for compute in ("ours", "dense"):
        quantizer = build(name, legacy)
        z = latents(2, D, 4, 5).contiguous(memory_format=layout).requires_grad_()
        if compute == "ours":
            z_q, loss, info = quantizer(z)
            indices, terms = info.indices, (info.commitment_loss, info.codebook_loss)
        else:
            z_q, *terms, indices = dense(name, quantizer, z)
            first, second = (1, 0.4) if legacy else (0.4, 1)
            loss = first * terms[0] + second * terms[1]
            if name == "ema":
                loss = 0.4 * terms[0]
            if name == "index_propagation":
                loss = loss + F.mse_loss(z_q, z)
        (3 * loss + (z_q * weight).sum()).backward()
        results.append((z_q, loss, *terms, indices))
        gradients.append(
            {n: p.grad for n, p in quantizer.named_parameters() if p.requires_grad} | {"z": z.grad}
        )
    if name != "hierarchical":  # whose networks choose
        assert results[0][0].is_contiguous(memory_format=layout)
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0].values())


@pytest.mark.parametrize("name", [name for name in WITHOUT_NOISE if name != "hierarchical"])
def test_interface(name: str) -> None:
    quantizer = build(name).eval()
    z = latents(2, D, 4, 5)
    z_q, _, info = quantizer(z)
    assert z_q.shape == z.shape
    assert info.indices.shape[:3] == (2, 4, 5)
    assert torch.equal(quantizer.encode(z), info.indices)
    torch.testing.assert_close(quantizer.lookup(info.indices), z_q, rtol=1e-5, atol=1e-6)
    assert quantizer.codebook.shape == (quantizer.num_codes, D)
    assert info.counts.shape == (quantizer.num_codes,)
    assert info.counts.dtype == torch.int64
    assert info.counts.sum() == 40 * quantizer.codes_per_latent
    first = info.indices.reshape(40, -1)[:, 0]
    assert torch.equal(info.counts[:K], first.bincount(minlength=K))
    repr(quantizer)


@pytest.mark.parametrize("name", WITHOUT_NOISE)
def test_compile_and_autocast(name: str) -> None:
    quantizer = build(name)
    z = latents(2, D, 4, 5)
    compiled = torch.compile(copy.deepcopy(quantizer), fullgraph=True, backend="aot_eager")
    leaf = z.clone().requires_grad_()
    z_q, loss, info = compiled(leaf)
    (loss + z_q.sum()).backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, low_loss, _ = copy.deepcopy(quantizer)(z.bfloat16())
    assert low.dtype == torch.bfloat16
    assert low_loss.dtype == torch.float32
    twin = z.clone().requires_grad_()
    expected, expected_loss, expected_info = quantizer(twin)
    (expected_loss + expected.sum()).backward()
    torch.testing.assert_close((z_q, loss), (expected, expected_loss))
    assert torch.equal(info.indices, expected_info.indices)
    torch.testing.assert_close(leaf.grad, twin.grad)
    torch.testing.assert_close(low_loss, loss, rtol=0.05, atol=0.01)


# The hierarchical one has networks inside, whose latents autocast rounds as it does an encoder's.
@pytest.mark.parametrize("name", [name for name in QUANTIZERS if name != "hierarchical"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_no_code(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    quantizer = build_quantizer(name, 512, 16, 0.4, False).eval()
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter.normal_()
    z = latents(2, 16, 16, 16).to(dtype)
    noise = {"seed": 1} if name == "gumbel" else {}
    drawn, nearest_codes = quantizer(z, **noise)[2].indices, quantizer.encode(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer(z, **noise)[2].indices, drawn)
        assert torch.equal(quantizer.encode(z), nearest_codes)
        assert quantizer.lookup(nearest_codes).dtype == torch.float32
    assert noise or torch.equal(drawn, nearest_codes)


@pytest.mark.parametrize("name", WITHOUT_NOISE)
def test_bad_input(name: str) -> None:
    quantizer = build(name)
    for call in (quantizer, quantizer.encode):
        with pytest.raises(ValueError, match=r"z must be \(B, D, H, W\) with D = 6, got \(2, 5, "):
            call(torch.zeros(2, 5, 3, 3))
        with pytest.raises(TypeError, match=r"z must be a torch.Tensor, got"):
            call([[[[0.0]]]])
    with pytest.raises(ValueError, match=rf"indices must lie in \[0, {K}\), got {K}"):
        quantizer.lookup(torch.full((1, 2, 2, 2), K))
    with pytest.raises(TypeError, match=r"indices must be a torch.Tensor, got None"):
        quantizer.lookup(None)


def test_residual_stages_and_shared_codebooks() -> None:
    quantizer = build("residual", shared=True)
    assert len(list(quantizer.parameters())) == 1
    assert quantizer.num_codes == K
    z = latents(2, D, 4, 5)
    z_q, loss, info = quantizer(z)
    loss.backward()
    assert info.counts.sum() == 120
    assert torch.equal(quantizer.encode(z), info.indices)
    torch.testing.assert_close(quantizer.lookup(info.indices), z_q)
    quantizer = build("residual").eval()
    z_q, _, info = quantizer(z)
    coarse = [quantizer.lookup(info.indices[..., :depth]) for depth in (1, 2, 3)]
    errors = [(z - codes).square().mean() for codes in coarse]
    assert errors[0] > errors[1] > errors[2]
    counts = [info.indices[..., q].flatten().bincount(minlength=K) for q in range(3)]
    assert torch.equal(info.counts, torch.cat(counts))
    with pytest.raises(ValueError, match=r"with Q from 1 to 3, got \(2, 4, 5, 4\)"):
        quantizer.lookup(torch.zeros(2, 4, 5, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="indices must be"):
        quantizer.lookup(torch.tensor(1))


def test_cosine_does_not_see_lengths() -> None:
    quantizer = build("cosine")
    z = latents(2, D, 4, 5)
    scaled = z * latents(2, 1, 4, 5, seed=4).abs().add(0.1)
    assert torch.equal(quantizer.encode(z), quantizer.encode(scaled))
    torch.testing.assert_close(quantizer(z)[0].norm(dim=1), torch.ones(2, 4, 5))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_cosines_of_half_precision_are_not_rounded(half: torch.dtype) -> None:
    torch.manual_seed(0)
    quantizer = build_quantizer("cosine", 512, 16, 0.4, False).to(half)
    z = latents(2, 16, 16, 16).to(half)
    rows = F.normalize(z.movedim(1, -1).double(), dim=-1)
    codes = F.normalize(quantizer.embedding.weight.double(), dim=-1)
    z_q, loss, info = quantizer(z)
    assert torch.equal(info.indices, (rows @ codes.T).argmax(-1))
    assert torch.equal(quantizer.encode(z), info.indices)
    torch.testing.assert_close(loss.double(), 1.4 * F.mse_loss(rows, codes[info.indices]))
    assert z_q.dtype == quantizer.lookup(info.indices).dtype == half
    torch.testing.assert_close(z_q, quantizer.lookup(info.indices))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_cosine_of_zero_vectors(half: torch.dtype) -> None:
    quantizer = build("cosine").to(half)
    z = latents(2, D, 4, 5).to(half)
    z[0, :, 0, 0] = 0
    quantizer.embedding.weight.data[3] = 0
    z_q, loss, info = quantizer(z)
    assert z_q.isfinite().all() and loss.isfinite()
    assert torch.equal(quantizer.encode(z), info.indices)
    assert quantizer.codebook.isfinite().all()


def test_simvq_moves_codes_that_were_not_chosen() -> None:
    quantizer = build("simvq")
    before = quantizer.codebook.detach().clone()
    _, loss, info = quantizer(latents(1, D, 1, 2))
    loss.backward()
    assert quantizer.embedding.weight.grad is None
    quantizer.projection.weight.data -= 0.1 * quantizer.projection.weight.grad
    assert (info.counts == 0).sum() >= K - 2
    assert ((quantizer.codebook - before).abs().amax(1) > 0).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "magic",
            {},
            "quantizer must be one of vector, ema, .* got 'magic'",
        ),
        ("vector", {"decay": 0.9}, "quantizer_options must be empty for vector, got 'decay'"),
        ("ema", {"dekay": 0.9}, "among decay, eps, restart_below for ema, got 'dekay'"),
        ("ema", {"decay": 1.0}, r"decay must lie in \[0, 1\), got 1.0"),
        ("ema", {"eps": 0.0}, "eps must be positive, got 0.0"),
        ("ema", {"restart_below": -1.0}, "restart_below must not be negative, got -1.0"),
        ("residual", {"num_quantizers": 0}, "num_quantizers must be at least 1, got 0"),
    ],
)
def test_bad_configuration(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_quantizer(name, K, D, 0.25, False, options)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "0.5", True, None])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_options_that_are_no_finite_numbers(name: str, value: object) -> None:
    parameters = inspect.signature(QUANTIZERS[name]).parameters
    numbers = [key for key, x in parameters.items() if isinstance(x.default, float)]
    assert numbers
    for key in numbers:
        with pytest.raises(ValueError, match=f"^{key} must be a finite number, got {value!r}$"):
            QUANTIZERS[name](**{key: value})


@pytest.mark.parametrize("name", QUANTIZERS)
def test_vqgan(name: str, tmp_path) -> None:
    torch.manual_seed(0)
    model = VQGAN(
        K, D, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), resolution=16,
        z_channels=8, quantizer=name, quantizer_options=EXTRA.get(name),
    )  # fmt: skip
    x = latents(2, 3, 16, 16)
    model(x)[1].backward()
    model.save_pretrained(tmp_path)
    loaded = VQGAN.from_pretrained(tmp_path)
    assert type(loaded.quantize) is QUANTIZERS[name]
    model.eval()
    with torch.no_grad():
        indices = loaded.encode_indices(x)
        assert torch.equal(indices, model.encode_indices(x))
        if name in WITHOUT_NOISE:
            torch.testing.assert_close(loaded.decode_indices(indices), model(x)[0])
    form = r"\(B, h, w, Q\)" if model.quantize.codes_per_latent > 1 else r"\(B, h, w\)"
    with pytest.raises(ValueError, match=f"indices must be {form}, got"):
        loaded.decode_indices(indices[0])
