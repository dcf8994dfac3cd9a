"""What the classes of vector-quantize-pytorch refuse: options, sizes, latents, indices."""

from __future__ import annotations

import re

import pytest
import torch

from vqgan_fast.compat.vector_quantize_pytorch import (
    GroupedResidualVQ,
    ResidualVQ,
    SimVQ,
    VectorQuantize,
)


@pytest.mark.parametrize("bad", [-2, 32])
@pytest.mark.parametrize("residual", [False, True])
def test_indices_out_of_range(residual: bool, bad: int) -> None:
    if residual:
        module, indices = ResidualVQ(dim=4, num_quantizers=2, codebook_size=32), [[0, bad]]
    else:
        module, indices = VectorQuantize(dim=4, codebook_size=32), [bad]
    for look_up in (module.get_codes_from_indices, module.get_output_from_indices):
        with pytest.raises(ValueError, match=rf"indices must lie in \[-1, 32\), got {bad}"):
            look_up(torch.tensor([indices]))


@pytest.mark.parametrize(
    "option",
    [
        {"affine_param": True},
        {"sync_affine_param": True},
        {"stochastic_sample_codes": True},
        {"straight_through": True},
        {"commitment_use_cross_entropy_loss": True},
        {"codebook_diversity_loss_weight": 0.1},
        {"implicit_neural_codebook": True},
        {"beam_size": 2},
    ],
    ids=str,
)
def test_options_that_are_not_covered(option: dict) -> None:
    (name,) = option
    own = () if name in ("implicit_neural_codebook", "beam_size") else (VectorQuantize,)
    for make in (*own, ResidualVQ, GroupedResidualVQ):
        sizes = {"num_quantizers": 2} if make is not VectorQuantize else {}
        with pytest.raises(NotImplementedError, match=f"^{name} is not covered"):
            make(dim=16, codebook_size=32, **sizes, **option)


@pytest.mark.parametrize("index", [-1, 32])
def test_an_index_of_no_code(index: int) -> None:
    with pytest.raises(ValueError, match=rf"indices must lie in \[0, 32\), got {index}"):
        SimVQ(dim=16, codebook_size=32).indices_to_codes(torch.tensor([[0, index]]))


def test_calls_that_are_not_covered() -> None:
    x = torch.randn(2, 5, 16)
    module = VectorQuantize(dim=16, codebook_size=32)
    before = module.codebook.clone()
    with pytest.raises(NotImplementedError, match="topk is not covered"):
        module(x, topk=2)
    with pytest.raises(NotImplementedError, match="codebook_transform_fn is not covered"):
        module(x, codebook_transform_fn=lambda codes: codes)
    residual = ResidualVQ(dim=16, num_quantizers=2, codebook_size=32)
    with pytest.raises(NotImplementedError, match="beam_size is not covered"):
        residual(x, beam_size=2)
    with pytest.raises(NotImplementedError, match="indices is not covered"):
        residual(x, indices=torch.zeros(2, 5, 2, dtype=torch.int64))
    heads = VectorQuantize(dim=16, codebook_size=32, heads=2, codebook_dim=8)
    with pytest.raises(NotImplementedError, match="not covered in training with codebook_dim"):
        heads(x, mask=torch.ones(2, 5, dtype=torch.bool))
    assert torch.equal(module.codebook, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learnable_codebook": True}, "learnable_codebook needs ema_update=False"),
        (
            {"learnable_codebook": True, "ema_update": False, "use_cosine_sim": True},
            "learnable_codebook is not possible with use_cosine_sim",
        ),
        ({"directional_reparam": True}, "directional_reparam needs threshold_ema_dead_code > 0"),
        ({"rotation_trick": True, "directional_reparam": True}, "exclude each other"),
        ({"sync_update_v": 2.0}, r"sync_update_v must lie in \[0, 1\], got 2.0"),
        ({"sync_update_v": 0.5}, "sync_update_v needs learnable_codebook"),
        ({"vq_bridge": torch.nn.Identity(), "learnable_codebook": False}, "vq_bridge needs"),
        (
            {
                "kmeans_init": True,
                "sync_codebook": True,
                "heads": 2,
                "separate_codebook_per_head": True,
            },
            "works on one process only",
        ),
        (
            {
                "heads": 2,
                "separate_codebook_per_head": True,
                "orthogonal_reg_active_codes_only": True,
                "orthogonal_reg_weight": 1.0,
            },
            "needs one codebook for all heads",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else ", ".join(value),
)
def test_options_that_exclude_each_other(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorQuantize(dim=16, codebook_size=32, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 4.0}, "dim must be an integer, got 4.0"),
        ({"codebook_size": -1}, "codebook_size must be at least 1, got -1"),
        ({"codebook_dim": 0}, "codebook_dim must be at least 1, got 0"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"kmeans_init": True, "kmeans_iters": 0}, "kmeans_iters must be at least 1, got 0"),
        (
            {"orthogonal_reg_weight": 1.0, "orthogonal_reg_max_codes": 0},
            "orthogonal_reg_max_codes must be at least 1, got 0",
        ),
    ],
    ids=str,
)
def test_sizes_that_are_none(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        VectorQuantize(**{"dim": 16, "codebook_size": 32} | options)


def test_bad_arguments_of_stages() -> None:
    sizes = {"dim": 16, "codebook_size": 32, "num_quantizers": 2}
    for options, message in [
        ({"heads": 2}, "heads must be 1"),
        ({"num_quantizers": None}, "num_quantizers or a tuple"),
        ({"codebook_size": (4, 5, 6)}, "or have 2, got 3"),
        ({"codebook_size": (4, 5), "shared_codebook": True}, "one codebook_size"),
        ({"num_quantizers": 0}, "num_quantizers must be at least 1, got 0"),
        ({"num_quantizers": None, "codebook_size": ()}, "one for each stage"),
        ({"quantize_dropout_cutoff_index": -1}, "quantize_dropout_cutoff_index"),
        (
            {"quantize_dropout": True, "quantize_dropout_cutoff_index": 2},
            "quantize_dropout_cutoff_index must be at most 1, got 2",
        ),
        (
            {"quantize_dropout": True, "quantize_dropout_multiple_of": 0},
            "quantize_dropout_multiple_of must be at least 1, got 0",
        ),
        ({"accept_image_fmap": True, "codebook_dim": 4}, "codebook_dim must be dim"),
        ({"channel_last": False}, "latents"),
        ({"dim": 4.5}, "dim must be an integer, got 4.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            ResidualVQ(**sizes | options)
    with pytest.raises(ValueError, match="dim must be a multiple of groups = 3, got 16"):
        GroupedResidualVQ(**sizes, groups=3)
    with pytest.raises(ValueError, match="groups must be at least 1, got 0"):
        GroupedResidualVQ(**sizes, groups=0)


def test_bad_masks() -> None:
    module = VectorQuantize(dim=16, codebook_size=32)
    x = torch.randn(2, 5, 16)
    with pytest.raises(ValueError, match=r"mask must be bool of shape \(2, 5\), got torch.bool of"):
        module(x, mask=torch.ones(2, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"got torch\.float32"):
        module(x, mask=torch.ones(2, 5))
    with pytest.raises(ValueError, match="mask and lens exclude each other"):
        module(x, mask=torch.ones(2, 5, dtype=torch.bool), lens=torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("cls", "options", "shape", "form"),
    [
        (VectorQuantize, {}, (2, 5, 15), "(B, ..., dim)"),
        (VectorQuantize, {}, (16,), "(B, ..., dim)"),
        (VectorQuantize, {"codebook_dim": 4, "heads": 2}, (2, 5, 15), "(B, ..., dim)"),
        (VectorQuantize, {"channel_last": False}, (2, 15, 16), "(B, dim, ...)"),
        (VectorQuantize, {"accept_image_fmap": True}, (2, 15, 4, 16), "(B, dim, ...)"),
        (ResidualVQ, {"num_quantizers": 2}, (2, 5, 15), "(B, ..., dim)"),
        (ResidualVQ, {"num_quantizers": 2, "codebook_dim": 4}, (2, 5, 15), "(B, ..., dim)"),
        (SimVQ, {}, (2, 5, 15), "(B, ..., dim)"),
        (SimVQ, {"channel_first": True}, (2, 15, 16), "(B, dim, ...)"),
    ],
)
def test_latents_of_another_length(cls: type, options: dict, shape: tuple, form: str) -> None:
    message = f"x must be {form} with dim = 16, got {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        cls(dim=16, codebook_size=32, **options)(torch.randn(shape))


@pytest.mark.parametrize("x", [None, [[1.0]]])
@pytest.mark.parametrize("cls", [VectorQuantize, ResidualVQ, GroupedResidualVQ, SimVQ])
def test_latents_that_are_no_tensor(cls: type, x: object) -> None:
    options = {"num_quantizers": 2} if "Residual" in cls.__name__ else {}
    with pytest.raises(TypeError, match=r"^x must be a torch\.Tensor, got"):
        cls(dim=16, codebook_size=32, **options)(x)


@pytest.mark.parametrize(
    ("heads", "shape", "form"),
    [(1, (2, 4), "(B, n) = (2, 5)"), (1, (10,), "(B, n) = (2, 5)")]
    + [(2, shape, "(B, n, heads) = (2, 5, 2)") for shape in ((2, 5), (2, 5, 1), (2, 5, 3))],
)
def test_given_indices_of_another_shape(heads: int, shape: tuple, form: str) -> None:
    module = VectorQuantize(dim=16, codebook_size=32, heads=heads, codebook_dim=16 // heads)
    x, indices = torch.randn(2, 5, 16), torch.zeros(shape, dtype=torch.int64)
    for call in (module, module.update_indices):
        with pytest.raises(ValueError, match=re.escape(f"indices must be {form}, got {shape}")):
            call(x, indices=indices)


@pytest.mark.parametrize("bad", [-2, 32])
def test_given_indices_out_of_range(bad: int) -> None:
    module = VectorQuantize(dim=16, codebook_size=32)
    with pytest.raises(ValueError, match=rf"indices must lie in \[-1, 32\), got {bad}"):
        module(torch.randn(2, 5, 16), indices=torch.full((2, 5), bad))


@pytest.mark.parametrize("last", [1, 3])
def test_lookups_want_an_index_for_each_separate_head(last: int) -> None:
    module = VectorQuantize(dim=16, codebook_size=32, heads=2, separate_codebook_per_head=True)
    with pytest.raises(
        ValueError, match=r"indices must have heads = 2 in their last .*, got \(2, 5"
    ):
        module.get_codes_from_indices(torch.zeros(2, 5, last, dtype=torch.int64))


def test_lookups_want_all_groups() -> None:
    module = GroupedResidualVQ(dim=16, codebook_size=32, num_quantizers=2, groups=2)
    for look_up in (module.get_codes_from_indices, module.get_output_from_indices):
        with pytest.raises(ValueError, match=r"indices must be \(G, B, .* with G = 2, got \(3, 2"):
            look_up(torch.zeros(3, 2, 5, 2, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(31, 16), (1, 16), (16,)])
def test_codes_of_another_shape(shape: tuple) -> None:
    """Some of which would be copied to all."""
    module = VectorQuantize(dim=16, codebook_size=32)
    with pytest.raises(
        ValueError, match=re.escape(f"codebook must be of shape (32, 16), got {shape}")
    ):
        module.codebook = torch.zeros(shape)
