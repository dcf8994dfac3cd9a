"""The draw: filters against a brute-force definition, frequencies against the softmax."""

from __future__ import annotations

import math
import random

import pytest
import torch

from vqgan_fast.sampling.draw import DrawRule

NUM_SEEDS = 20000


def brute_force_distribution(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> list[float]:
    """The probability of each code, from the words of DrawRule's docstring."""
    order = sorted(range(len(logits)), key=lambda code: (-logits[code], code))
    kept = order[: top_k or len(order)]
    highest = max(logits)
    weight = {code: math.exp((logits[code] - highest) / temperature) for code in kept}
    if top_p is not None:
        total, mass, nucleus = sum(weight.values()), 0.0, []
        for code in kept:
            nucleus.append(code)
            mass += weight[code]
            if mass >= top_p * total:
                break
        kept = nucleus
    total = sum(weight[code] for code in kept)
    return [weight[code] / total if code in kept else 0.0 for code in range(len(logits))]


def chi_square(counts: torch.Tensor, probabilities: list[float]) -> float:
    expected = torch.tensor(probabilities) * counts.sum()
    possible = expected > 0
    assert counts[~possible].sum() == 0, "a code was drawn that the filters had dropped"
    return ((counts - expected)[possible] ** 2 / expected[possible]).sum().item()


def draw_many(rule: DrawRule, logits: list[float], cell: int = 0) -> torch.Tensor:
    """One draw of the same logits for each of many seeds."""
    return rule.draw(torch.tensor(logits).expand(NUM_SEEDS, -1), torch.arange(NUM_SEEDS), cell)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (5, None), (None, 0.8), (6, 0.7)])
def test_frequencies_follow_the_filtered_softmax(temperature, top_k, top_p):
    logits = [0.3, -1.0, 1.5, 0.0, 0.7, -0.4, 1.1, -2.0]
    rule = DrawRule(temperature, top_k, top_p)
    counts = draw_many(rule, logits).bincount(minlength=len(logits))
    probabilities = brute_force_distribution(logits, temperature, top_k, top_p)
    # At most 7 degrees of freedom: 26 is passed by chance once in two thousand.
    assert chi_square(counts, probabilities) < 26


def test_draws_of_neighbouring_cells_and_seeds_are_independent():
    logits = [0.0, 0.5, -0.5]
    first, second = (draw_many(DrawRule(), logits, cell) for cell in (100, 101))
    single = brute_force_distribution(logits, 1.0, None, None)
    joint = [a * b for a in single for b in single]
    # 8 degrees of freedom: 28 is passed by chance once in two thousand.
    assert chi_square((3 * first + second).bincount(minlength=9), joint) < 28
    pairs = 3 * first[0::2] + first[1::2]
    assert chi_square(pairs.bincount(minlength=9), joint) < 28


@pytest.mark.parametrize("top_k", [None, 1, 3, 12])
@pytest.mark.parametrize("top_p", [None, 1e-9, 0.3, 0.9, 1.0])
def test_filters_keep_what_the_brute_force_keeps(top_k, top_p):
    source = random.Random(1)
    # Few levels, so that most values are tied with another.
    rows = [[source.choice([-3.0, -0.5, 0.25, 1.0]) for _ in range(12)] for _ in range(40)]
    scores = torch.tensor(rows, dtype=torch.float64)
    scores -= scores.amax(-1, keepdim=True)
    codes, kept = DrawRule(top_k=top_k, top_p=top_p).candidates(scores)
    codes = codes.expand_as(kept)
    assert (codes.diff(dim=-1) > 0).all(), "codes must ascend, so that ties go to the lowest"
    for row, logits in enumerate(rows):
        probabilities = brute_force_distribution(logits, 1.0, top_k, top_p)
        expected = {code for code, probability in enumerate(probabilities) if probability > 0}
        assert set(codes[row][kept[row].isfinite()].tolist()) == expected


def test_ties_at_the_kth_value_keep_the_lowest_codes():
    counts = draw_many(DrawRule(top_k=3), [0.0] * 6).bincount(minlength=6)
    assert (counts > 0).tolist() == [True, True, True, False, False, False]


def test_top_p_counts_the_probability_that_top_k_left():
    logits = [math.log(p) for p in (0.1, 0.2, 0.3, 0.4)]
    # 0.4 of 0.7 is 0.571: alone enough for 0.57 after top-k, not enough without it.
    assert draw_many(DrawRule(top_k=2, top_p=0.57), logits).unique().tolist() == [3]
    assert draw_many(DrawRule(top_p=0.57), logits).unique().tolist() == [2, 3]


def test_top_p_is_not_rounded_to_single_precision():
    scores = torch.zeros(1, 2, dtype=torch.float64)
    for top_p, count in ((0.5, 1), (0.5 + 1e-9, 2)):
        assert DrawRule(top_p=top_p).candidates(scores)[1].isfinite().sum() == count


def test_top_p_of_one_drops_nothing_however_unlikely():
    scores = torch.tensor([[0.0, -800.0]], dtype=torch.float64)
    assert DrawRule(top_p=1.0).candidates(scores)[1].isfinite().all()


def test_a_draw_is_the_same_alone_and_in_any_batch():
    logits = torch.randn(7, 100, generator=torch.Generator().manual_seed(0))
    seeds = torch.tensor([5, 6, 7, 8, 9, 10, 11])
    for rule in (DrawRule(), DrawRule(0.7, top_k=20, top_p=0.8)):
        together = rule.draw(logits, seeds, 3)
        alone = [rule.draw(logits[i : i + 1], seeds[i : i + 1], 3) for i in range(7)]
        assert torch.equal(torch.cat(alone), together)
        assert torch.equal(rule.draw(logits.flip(0), seeds.flip(0), 3).flip(0), together)


def test_the_draw_is_another_for_another_seed_or_cell():
    logits = torch.zeros(1, 2**16)
    draws = {
        DrawRule().draw(logits, torch.tensor([seed]), cell).item()
        for seed in (0, 1, 2**32, 2**33) for cell in (0, 1, 2)
    }  # fmt: skip
    assert len(draws) == 12


def test_forbidden_codes_are_never_drawn():
    draws = draw_many(DrawRule(), [-math.inf, 0.0, -math.inf, 1.0])
    assert draws.unique().tolist() == [1, 3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_greedy_takes_the_lowest_of_the_likeliest(dtype):
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0], [3.0, 3.0, 3.0, 3.0]], dtype=dtype)
    rule = DrawRule(greedy=True, top_k=2, top_p=0.1)
    assert rule.draw(logits, torch.tensor([1, 2]), 0).tolist() == [1, 0]


def test_a_temperature_near_zero_is_greedy_and_stays_finite():
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(2))
    cold = DrawRule(temperature=1e-300).draw(logits, torch.arange(50), 0)
    assert torch.equal(cold, logits.argmax(-1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, r"temperature must be finite and > 0, got 0\.0"),
        ({"temperature": -1.0}, r"temperature must be finite and > 0, got -1\.0"),
        ({"temperature": math.nan}, r"temperature must be finite and > 0, got nan"),
        ({"temperature": math.inf}, r"temperature must be finite and > 0, got inf"),
        ({"top_k": 0}, r"top_k must be an integer >= 1 or None, got 0"),
        ({"top_k": 2.5}, r"top_k must be an integer >= 1 or None, got 2\.5"),
        ({"top_k": True}, r"top_k must be an integer >= 1 or None, got True"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\] or None, got 0\.0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\] or None, got 1\.1"),
        ({"top_p": math.nan}, r"top_p must be in \(0, 1\] or None, got nan"),
    ],
)
def test_bad_rules(arguments, message):
    with pytest.raises(ValueError, match=message):
        DrawRule(**arguments)


def test_top_k_beyond_the_vocabulary():
    with pytest.raises(ValueError, match="top_k must be at most the 4 codes, got 5"):
        DrawRule(top_k=5).draw(torch.zeros(1, 4), torch.tensor([0]), 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_refused(bad):
    logits = torch.zeros(2, 4)
    logits[1, 2] = bad
    for greedy in (False, True):
        with pytest.raises(ValueError, match=r"logits must hold no NaN or \+inf"):
            DrawRule(greedy=greedy).draw(logits, torch.tensor([0, 1]), 0)
    with pytest.raises(ValueError, match="a finite value in each row"):
        DrawRule().draw(torch.full((1, 3), -math.inf), torch.tensor([0]), 0)
