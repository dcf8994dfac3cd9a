"""Tiled decoding: no seams, bounded memory, and close to the whole."""

from __future__ import annotations

import copy

import pytest
import torch

from vqgan_fast.models import VQGAN
from vqgan_fast.sampling import decode_tiled


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    """A decoder with random weights and a codebook in which near codes are alike."""
    torch.manual_seed(0)
    model = VQGAN(
        codebook_size=64, embed_dim=8, ch=32, ch_mult=(1, 1, 1), num_res_blocks=1,
        attn_resolutions=(4,), resolution=16, z_channels=16,
    )  # fmt: skip
    with torch.no_grad():
        phases = torch.arange(64)[:, None] * torch.linspace(0.02, 0.16, 8)
        model.quantize.embedding.weight.copy_((phases + torch.arange(8)).sin())
    return model.eval()


def slope(height: int, width: int) -> torch.Tensor:
    """Codes that rise over the picture, so that it is smooth and tiles differ in statistics."""
    return (torch.arange(height)[:, None] + torch.arange(width))[None] * 63 // (height + width - 2)


def seam_ratio(image: torch.Tensor, borders: list[int], factor: int, dim: int) -> float:
    """Mean step across the pixels at borders, over the mean step at all other places."""
    steps = image.diff(dim=dim).abs().mean(dim=[d for d in range(4) if d != dim])
    # A code's pixels have a pattern of their own: compare with where two codes meet.
    meetings = torch.arange(factor - 1, len(steps), factor)
    at = torch.tensor([factor * border - 1 for border in borders])
    elsewhere = meetings[~torch.isin(meetings, at)]
    return float(steps[at].mean() / steps[elsewhere].mean())


# Where tiles begin and end, from top to bottom and from left to right.
BORDERS = {
    (16, 8): ([8, 16, 24, 32], [6, 12, 16, 18, 22, 28]),
    (12, 4): ([7, 12, 14, 19, 21, 26, 28, 33], [7, 12, 15, 19, 22, 27]),
}


@pytest.mark.parametrize(("tile", "overlap"), BORDERS)
def test_no_seam_and_little_difference(vqgan, tile, overlap):
    codes = slope(40, 34)
    with torch.no_grad():
        whole = vqgan.decode_indices(codes)
    tiled = decode_tiled(vqgan, codes, tile, overlap)
    assert tiled.shape == whole.shape
    for dim, borders in zip((2, 3), BORDERS[tile, overlap], strict=True):
        assert seam_ratio(tiled, borders, 4, dim) <= 1.1
    # Group norm and attention see a tile instead of the picture: not equal, and the same picture.
    assert 0 < float((tiled - whole).abs().mean()) < float(whole.std())


def test_tiles_without_a_fade_have_seams(vqgan):
    """The measure sees what it is to see."""
    codes = slope(40, 16)
    with torch.no_grad():
        parts = [vqgan.decode_indices(part) for part in codes.split(20, dim=1)]
    assert seam_ratio(torch.cat(parts, dim=2), [20], 4, 2) > 1.1


def test_a_decoder_that_looks_no_further_than_the_overlap_gives_the_whole(vqgan):
    local = copy.deepcopy(vqgan)
    for name, part in list(local.named_modules()):
        if isinstance(part, torch.nn.GroupNorm):
            *parents, last = name.split(".")
            setattr(local.get_submodule(".".join(parents)), last, torch.nn.Identity())
    for level in local.decoder.modules():
        if hasattr(level, "attn") and len(getattr(level, "attn", [])):
            level.attn = torch.nn.ModuleList()
    local.decoder.mid.attn_1 = torch.nn.Identity()
    codes = slope(48, 44)
    with torch.no_grad():
        whole = local.decode_indices(codes)
    tiled = decode_tiled(local, codes, tile=40, overlap=20)
    torch.testing.assert_close(tiled, whole, atol=1e-5 * float(whole.abs().max()), rtol=0)


@pytest.mark.parametrize("tile", [8, 12, 16])
def test_what_tiles_agree_on_stays(vqgan, monkeypatch, tile):
    """The weights of all tiles add up to 1, also where three of them overlap."""

    def ones(codes):
        return torch.ones(1, 3, 4 * codes.shape[1], 4 * codes.shape[2])

    monkeypatch.setattr(vqgan, "decode_indices", ones)
    for size in range(tile + 1, 3 * tile):
        for overlap in (1, tile // 3, tile // 2):
            image = decode_tiled(vqgan, torch.zeros(1, size, 5, dtype=torch.int64), tile, overlap)
            torch.testing.assert_close(image, torch.ones_like(image), atol=1e-6, rtol=0)


def test_memory_is_that_of_a_tile(vqgan, monkeypatch):
    sizes = []
    decode = vqgan.decode_indices
    monkeypatch.setattr(
        vqgan, "decode_indices", lambda codes: sizes.append(codes.shape) or decode(codes)
    )
    decode_tiled(vqgan, slope(24, 30).expand(2, -1, -1), tile=12, overlap=3)
    assert set(sizes) == {(1, 12, 12)}
    assert len(sizes) == 2 * 3 * 3


def test_a_grid_of_one_tile_is_decoded_whole(vqgan):
    codes = slope(8, 12)
    with torch.no_grad():
        assert torch.equal(decode_tiled(vqgan, codes, 12, 3), vqgan.decode_indices(codes))


def test_no_images(vqgan):
    assert decode_tiled(vqgan, slope(16, 12).expand(0, -1, -1), 12, 3).shape == (0, 3, 64, 48)


def test_a_long_strip_and_the_models_mode(vqgan):
    vqgan.train()
    image = decode_tiled(vqgan, slope(5, 40), tile=16, overlap=4)
    assert image.shape == (1, 3, 20, 160)
    assert vqgan.training
    assert not image.requires_grad
    vqgan.eval()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile": 0}, "tile must be at least 1, got 0"),
        ({"overlap": 0}, "overlap must be at least 1, got 0"),
        ({"tile": 8, "overlap": 5}, "overlap must be at most half the tile of 8, got 5"),
        ({"codes": [[[1]]]}, "codes must be a tensor, got list"),
        ({"codes": torch.zeros(4, 4, dtype=torch.int64)}, r"codes must be \(B, H, W\), got \(4, 4"),
    ],
)
def test_bad_arguments(vqgan, arguments, message):
    arguments = {"codes": slope(12, 12), "tile": 8, "overlap": 2, **arguments}
    with pytest.raises(ValueError, match=message):
        decode_tiled(vqgan, **arguments)
