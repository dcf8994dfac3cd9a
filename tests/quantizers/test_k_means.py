"""k-means: a fixed point, downhill all the way, no code left over."""

from __future__ import annotations

import pytest
import torch

from vqgan_fast import ops
from vqgan_fast.quantizers import k_means


def error(rows, codebook):
    return float(ops.nearest_code(rows, codebook)[1].mean())


def rows(number=600):
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(6, 3, generator=generator)
    which = torch.randint(6, (number,), generator=generator)
    return centres[which] + 0.3 * torch.randn(number, 3, generator=generator)


def test_every_code_is_the_mean_of_its_rows_and_of_no_others():
    data = rows()
    codebook = k_means(data, 6)
    indices, _ = ops.nearest_code(data, codebook)
    for code in range(6):
        torch.testing.assert_close(codebook[code], data[indices == code].mean(0))


def test_iterations_lower_the_error():
    data = torch.rand(600, 3, generator=torch.Generator().manual_seed(0))
    errors = [error(data, k_means(data, 16, iterations=n)) for n in (1, 2, 4, 50)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.95 * errors[0]


def test_codes_without_rows_move_to_the_furthest_rows():
    """All first codes in one heap, a far row alone: it gets a code of its own."""
    heap = torch.linspace(0, 1, 400)[:, None].repeat(1, 2)
    far = torch.full((1, 2), 50.0)
    codebook = k_means(torch.cat([heap, far]), 8, seed=3)
    assert (codebook == 50).all(1).any()
    used = ops.nearest_code(torch.cat([heap, far]), codebook)[0].unique()
    assert len(used) == 8


def test_as_many_codes_as_rows_is_exact_and_more_are_refused():
    data = rows(10)
    assert error(data, k_means(data, 10)) == 0
    with pytest.raises(ValueError, match="at least num_codes = 11 different ones, got 10"):
        k_means(data.repeat(2, 1), 11)
    with pytest.raises(ValueError, match=r"rows must be \(N, D\)"):
        k_means(data[None], 2)
    with pytest.raises(TypeError, match=r"rows must be a torch.Tensor, got builtins.list"):
        k_means([[1.0]], 1)
    for options, message in [
        ({"iterations": 1.5}, "iterations must be an integer, got 1.5"),
        ({"iterations": -1}, "iterations must be at least 0, got -1"),
        ({"seed": "a"}, "seed must be an integer, got 'a'"),
    ]:
        with pytest.raises(ValueError, match=message):
            k_means(data, 2, **options)
    data[3, 0] = torch.nan
    with pytest.raises(ValueError, match="rows must be finite"):
        k_means(data, 2)
