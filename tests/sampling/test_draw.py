"""The draw: frequencies against the filtered softmax of a brute-force definition."""

from __future__ import annotations

import math

import pytest
import torch

from vqgan_fast.sampling.draw import DrawRule, guidance_of_cells

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
    rows = torch.tensor(logits).expand(NUM_SEEDS, -1)
    return rule.draw(rows, torch.arange(NUM_SEEDS), torch.full((NUM_SEEDS,), cell))[0]


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


def test_ties_at_the_kth_value_keep_the_lowest_codes():
    counts = draw_many(DrawRule(top_k=3), [0.0] * 6).bincount(minlength=6)
    assert (counts > 0).tolist() == [True, True, True, False, False, False]


def test_top_p_counts_the_probability_that_top_k_left():
    logits = [math.log(p) for p in (0.1, 0.2, 0.3, 0.4)]
    # 0.4 of 0.7 is 0.571: alone enough for 0.57 after top-k, not enough without it.
    assert draw_many(DrawRule(top_k=2, top_p=0.57), logits).unique().tolist() == [3]
    assert draw_many(DrawRule(top_p=0.57), logits).unique().tolist() == [2, 3]


def test_a_draw_is_the_same_alone_and_in_any_batch():
    logits = torch.randn(7, 100, generator=torch.Generator().manual_seed(0))
    seeds, cells = torch.arange(5, 12), torch.arange(3, 10)
    for rule in (DrawRule(), DrawRule(0.7, top_k=20, top_p=0.8)):
        together = rule.draw(logits, seeds, cells)
        for row in range(7):
            alone = rule.draw(*(x[row : row + 1] for x in (logits, seeds, cells)))
            assert all(torch.equal(a[0], t[row]) for a, t in zip(alone, together, strict=True))


def test_forbidden_codes_are_never_drawn():
    draws = draw_many(DrawRule(), [-math.inf, 0.0, -math.inf, 1.0])
    assert draws.unique().tolist() == [1, 3]


def test_greedy_takes_the_lowest_of_the_likeliest():
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
    seeds = cells = torch.zeros(2, dtype=torch.int64)
    for rule in (DrawRule(greedy=True, top_k=2, top_p=0.1), DrawRule(temperature=0)):
        assert rule.draw(logits, seeds, cells)[0].tolist() == [1, 0]


def test_guidance_pushes_away_from_the_unconditional_logits():
    cond, uncond = torch.tensor([[0.0, 1.0, 0.9]]), torch.tensor([[0.0, 1.0, 0.0]])
    zero = torch.zeros(1, dtype=torch.int64)
    rule = DrawRule(greedy=True)
    assert [rule.draw(cond, zero, zero, uncond, g)[0].item() for g in (0, 1, 3)] == [1, 1, 2]


def test_guidance_is_a_function_of_the_cells_place():
    assert guidance_of_cells(2.5, 3) == [2.5] * 3
    assert guidance_of_cells(lambda share: 1 + share, 4) == [1.0, 1.25, 1.5, 1.75]
    with pytest.raises(ValueError, match="guidance must be a finite number, got inf"):
        guidance_of_cells(lambda share: math.inf if share > 0.5 else 1, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1.0}, r"temperature must be a finite number >= 0, got -1\.0"),
        ({"temperature": math.nan}, r"temperature must be a finite number >= 0, got nan"),
        ({"temperature": math.inf}, r"temperature must be a finite number >= 0, got inf"),
        ({"top_k": 0}, r"top_k must be an integer >= 1 or None, got 0"),
        ({"top_k": 2.5}, r"top_k must be an integer >= 1 or None, got 2\.5"),
        ({"top_k": True}, r"top_k must be an integer >= 1 or None, got True"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\] or None, got 0\.0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\] or None, got 1\.1"),
        ({"min_p": 0.0}, r"min_p must be in \(0, 1\] or None, got 0\.0"),
        ({"top_p": math.nan}, r"top_p must be in \(0, 1\] or None, got nan"),
    ],
)
def test_bad_rules(arguments, message):
    with pytest.raises(ValueError, match=message):
        DrawRule(**arguments)


def test_top_k_beyond_the_vocabulary():
    with pytest.raises(ValueError, match="top_k must be at most the 4 codes, got 5"):
        DrawRule(top_k=5).check_vocabulary(4)
