"""Images and scores of the tensor-core searches against fp64."""

from __future__ import annotations

import pytest
import torch
from search_cases import CASES

SEARCHES = pytest.mark.parametrize(("way", "capability"), [("mma", 80), ("wgmma", 90)])
EXPONENT = 13  # the largest element of an image is in [2^13, 2^14)


def unpack(image, rows_of_panel, depth, num_rows):
    """(num_rows, depth) fp64 from panels of 16-byte units, side by side by rows."""
    units = image[:, : depth * rows_of_panel * 2].contiguous().view(torch.float16)
    panels = units.reshape(len(image), depth // 8, rows_of_panel, 8).transpose(1, 2)
    return panels.reshape(-1, depth)[:num_rows].double()


def exponent(x):
    return torch.frexp(x)[1] - 1


def true_scores(found, z, codebook):
    """2^r (|y|^2 / 2 - x . y) in fp64, as the images are scaled; and x 2^r, y."""
    largest = found["code_facts"][3]
    scale = torch.ldexp(torch.ones((), dtype=torch.float64), EXPONENT - exponent(largest))
    centre = found["centre"].double()
    y = (codebook.double() - centre) * scale
    row_scale = found["row_facts"][:, :1].double()
    x = (z.double() - centre) * scale * row_scale
    return row_scale * 0.5 * y.square().sum(1) - x @ y.T, x, y


@SEARCHES
@pytest.mark.parametrize(("case", "dim"), [("gaussian", 40), ("offset", 64), ("vqgan_init", 150)])
def test_images_are_the_scaled_vectors(kernels, case, dim, way, capability):
    torch.manual_seed(0)
    kernels.emulate(2, capability=capability)
    z, codebook = CASES[case](70, 150, dim)
    found = kernels.screen(z, codebook, way)
    _, x, y = true_scores(found, z, codebook)
    for image, panel, vectors, facts in (
        (found["row_image"], 64, x, found["row_facts"][:, 1:]),
        (found["code_image"], 128, y, found["code_facts"][:3].expand(150, 3)),
    ):
        depth = found["depth"]
        columns = unpack(image, panel, depth, len(vectors))
        assert torch.equal(columns[:, dim:], torch.zeros(len(vectors), depth - dim))
        rest = vectors - columns[:, :dim]
        assert (rest.norm(dim=1) <= facts[:, 1] + 1e-7 * vectors.norm(dim=1)).all()
        assert (vectors.norm(dim=1) <= facts[:, 0] * (1 + 1e-5)).all()
        assert (rest.norm(dim=1) < 2**-11 * vectors.norm(dim=1)).all(), "fp16 has 11 bits"
    assert (x.abs().amax(1) < 2**14).all() and (x.abs().amax(1) >= 2**13).all()


def test_short_vectors_are_sums_of_two_fp16(kernels):
    torch.manual_seed(0)
    z, codebook = CASES["gaussian"](70, 150, 7)
    found = kernels.screen(z, codebook, "mma")
    _, x, y = true_scores(found, z, codebook)
    rows = unpack(found["row_image"], 64, found["depth"], 70)
    codes = unpack(found["code_image"], 128, found["depth"], 150)
    assert torch.equal(rows[:, :7], rows[:, 14:21]) and torch.equal(codes[:, :7], codes[:, 7:14])
    for vectors, high, low in ((x, rows[:, :7], rows[:, 7:14]), (y, codes[:, :7], codes[:, 14:21])):
        assert ((vectors - high - low).abs() <= 2**-21 * vectors.abs() + 2**-24).all()


def test_half_precision_inputs_lose_nothing(kernels):
    torch.manual_seed(0)
    z, codebook = (t.bfloat16() for t in CASES["gaussian"](70, 150, 48))
    found = kernels.screen(z, codebook, "mma")
    assert (found["row_facts"][:, 2] == 0).all() and found["code_facts"][1] == 0


@SEARCHES
@pytest.mark.parametrize("case", ["gaussian", "clustered", "offset", "vqgan_init", "outlier"])
@pytest.mark.parametrize("dim", [3, 8, 32, 50, 140])
def test_scores_are_within_the_margin(kernels, case, dim, way, capability):
    """Each class has its smallest score, wrong by half the margin at most."""
    torch.manual_seed(dim)
    kernels.emulate(2, capability=capability)
    num_rows, num_codes = 40, 300
    z, codebook = CASES[case](num_rows, num_codes, dim)
    found = kernels.screen(z, codebook, way)
    scores, _, _ = true_scores(found, z, codebook)
    margin = found["margins"].double()
    tiles, groups = found["code_tiles"], found["groups"]
    padded = torch.full((num_rows, tiles * 128), torch.inf, dtype=torch.float64)
    padded[:, :num_codes] = scores
    # [row, tile, run of columns, groups of eight, quad, pair] -> smallest of each class and tile
    parts = padded.view(num_rows, tiles, groups, 16 // groups, 4, 2)
    of_tiles = parts.amin(dim=(3, 5)).reshape(num_rows, tiles, 4 * groups)
    best = found["scores"].amin(0).double()
    error = (best - of_tiles.amin(1)).abs()
    assert (error <= margin[:, None] / 2).all()
    # Tiles: where the class's smallest is, up to the margin; losers: above what is left.
    split = found["scores"].argmin(0)
    where = found["tiles"].gather(0, split[None])[0].long()
    there = of_tiles.gather(1, where[:, None, :])[:, 0]
    assert (there <= of_tiles.amin(1) + margin[:, None]).all()
    others = of_tiles.scatter(1, where[:, None, :], torch.inf).amin(dim=(1, 2))
    losers = found["losers"].amin(0).double()
    if found["splits"] == 1:
        assert ((losers - others).abs() <= margin).all() or tiles == 1


@SEARCHES
def test_few_rows_of_ordinary_data_stay_open(kernels, way, capability):
    torch.manual_seed(0)
    kernels.emulate(1, capability=capability)
    for dim, most in ((8, 0), (64, 0.05)):
        found = kernels.screen(*CASES["gaussian"](256, 512, dim), way)
        limit = found["scores"].amin(dim=(0, 2)) + found["margins"]
        open_rows = found["losers"].amin(0) <= limit
        assert open_rows.float().mean() <= most
        candidates = (found["scores"] <= limit[:, None]).sum(dim=(0, 2)).float()
        assert candidates.mean() < 1.5


@SEARCHES
@pytest.mark.parametrize("num_codes", [100, 300, 500, 700])
@pytest.mark.parametrize("dim", [8, 150])
def test_no_warp_runs_ahead_of_what_it_reads(kernels, dim, num_codes, way, capability):
    """The images and scores themselves: exact searches would make up for wrong ones."""
    torch.manual_seed(0)
    z, codebook = CASES["gaussian"](300, num_codes, dim)
    kernels.emulate(2, 0, capability)
    expected = kernels.screen(z, codebook, way)
    for schedule in (-1, -2, 2):
        kernels.emulate(2, schedule, capability)
        found = kernels.screen(z, codebook, way)
        for name, value in expected.items():
            same = torch.as_tensor(found[name]).equal(torch.as_tensor(value))
            assert same, f"{name} differs with schedule {schedule}"
