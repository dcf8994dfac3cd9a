"""The random numbers against Random123's published vectors and against a scalar implementation."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from vqgan_fast.ops.reference.philox import gumbel_noise, philox_4x32, uniform
from vqgan_fast.sampling.seeds import image_seeds

# counter, key, output: the lines "philox4x32 10" of Random123's file of known answers.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def scalar_philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x32-10 on Python's integers, from the paper's definition of a round."""
    left0, right0, left1, right1 = counter[1], counter[0], counter[3], counter[2]
    for number in range(10):
        key0 = (key[0] + number * 0x9E3779B9) % 2**32
        key1 = (key[1] + number * 0xBB67AE85) % 2**32
        high0, low0 = divmod(0xD2511F53 * right0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * right1, 2**32)
        right0, left0, right1, left1 = high1 ^ left0 ^ key0, low1, high0 ^ left1 ^ key1, low0
    return [right0, left0, right1, left1]


def scalar_uniform(seed: int, cell: int, code: int, draw: int = 0) -> float:
    word = scalar_philox([code, cell, draw, 0], [seed % 2**32, seed // 2**32])[0]
    return (2 * word + 1) / 2**33


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_known_answers(counter, key, output):
    result = philox_4x32(torch.tensor(words(counter)), torch.tensor(words(key)))
    assert [int(word) for word in result] == words(output)
    assert scalar_philox(words(counter), words(key)) == words(output)


def test_equals_the_scalar_implementation():
    source = random.Random(0)
    rows = [[source.getrandbits(32) for _ in range(6)] for _ in range(200)]
    columns = torch.tensor(rows).unbind(1)
    result = torch.stack(philox_4x32(columns[:4], columns[4:]), 1)
    assert result.tolist() == [scalar_philox(row[:4], row[4:]) for row in rows]


def test_uniform_is_the_documented_function_of_seed_cell_code_and_draw():
    seeds = [0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF]
    codes = [0, 1, 1023, 16383]
    numbers = uniform(image_seeds(seeds, len(seeds)), 77, torch.tensor(codes), draw=3)
    assert numbers.dtype == torch.float64
    expected = [[scalar_uniform(seed, 77, code, 3) for code in codes] for seed in seeds]
    assert numbers.tolist() == expected


def test_uniform_stays_inside_the_open_interval_at_the_extreme_words(monkeypatch):
    for word, expected in ((0, 2.0**-33), (2**32 - 1, 1 - 2.0**-33)):
        monkeypatch.setattr(
            "vqgan_fast.ops.reference.philox.philox_4x32",
            lambda *_, word=word: [torch.tensor([[word]])],
        )
        number = uniform(torch.tensor([5]), 0, torch.arange(1))
        assert number.item() == expected
        assert 0 < expected < 1
        assert gumbel_noise(torch.tensor([5]), 0, torch.arange(1)).isfinite().all()


def test_noise_does_not_depend_on_the_batch_or_on_the_other_codes():
    seeds = torch.tensor([3, -4, 2**40, 17])
    everything = gumbel_noise(seeds, 9, torch.arange(50))
    for row in range(4):
        alone = gumbel_noise(seeds[row : row + 1], 9, torch.arange(50))
        torch.testing.assert_close(alone[0], everything[row], rtol=1e-14, atol=1e-14)
    some = torch.tensor([[4, 49], [0, 1], [7, 3], [20, 20]])
    torch.testing.assert_close(
        gumbel_noise(seeds, 9, some), everything.gather(1, some), rtol=1e-14, atol=1e-14
    )


def test_each_row_may_have_a_cell_of_its_own():
    seeds = torch.tensor([3, 3, 8])
    cells = torch.tensor([5, 6, 5])
    together = uniform(seeds, cells, torch.arange(6))
    for row, cell in enumerate(cells.tolist()):
        assert torch.equal(together[row], uniform(seeds, cell, torch.arange(6))[row])


def test_noise_follows_the_gumbel_distribution():
    noise = gumbel_noise(torch.arange(200), 12, torch.arange(500)).flatten()
    count = noise.numel()
    assert noise.mean().item() == pytest.approx(0.5772156649, abs=5 * 1.2825 / math.sqrt(count))
    # Kolmogorov-Smirnov against exp(-exp(-x)); 1.95 / sqrt(n) is passed once in a thousand.
    theory = torch.exp(-torch.exp(-noise.sort().values))
    steps = torch.arange(count + 1) / count
    distance = torch.maximum((theory - steps[:-1]).abs().max(), (theory - steps[1:]).abs().max())
    assert distance.item() < 1.95 / math.sqrt(count)


def test_seeds_are_64_bits_however_they_are_written():
    assert image_seeds([2**64 - 1, 2**63, 5], 3).tolist() == [-1, -(2**63), 5]
    assert image_seeds(torch.tensor([-1, 5], dtype=torch.int32), 2).tolist() == [-1, 5]
    assert image_seeds(range(3), 3).tolist() == [0, 1, 2]


def test_default_seeds_come_from_the_global_generator():
    torch.manual_seed(4)
    first, second = image_seeds(None, 3), image_seeds(None, 3)
    torch.manual_seed(4)
    assert torch.equal(image_seeds(None, 3), first)
    assert len(set(first.tolist() + second.tolist())) == 6


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([1, 2], r"seeds must hold one integer for each image, 3 of them, got 2"),
        (7, r"seeds must hold one integer for each image, got 7"),
        ("abc", r"seeds must hold one integer for each image, got 'abc'"),
        (torch.tensor(7), r"seeds must have one dimension, got shape \(\)"),
        ([1, 2, 2**64], r"seeds must be integers in \[-2\^63, 2\^64\), got 18446744073709551616"),
        ([1, 2, 0.5], r"seeds must be integers in \[-2\^63, 2\^64\), got 0\.5"),
        (np.zeros((3, 1)), r"seeds must have one dimension, got shape \(3, 1\)"),
        (np.zeros(3), r"seeds must be integers in \[-2\^63, 2\^64\), got 0\.0"),
        (torch.zeros(3), r"seeds must be integers in \[-2\^63, 2\^64\), got 0\.0"),
        ([1, 2, True], r"seeds must be integers in \[-2\^63, 2\^64\), got True"),
    ],
)
def test_bad_seeds(seeds, message):
    with pytest.raises(ValueError, match=message):
        image_seeds(seeds, 3)
