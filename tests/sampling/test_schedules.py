"""Each schedule against its own definition without a cache, log-probabilities and guidance too."""

from __future__ import annotations

import pytest
import torch
from tiny_models import VOCAB_SIZE, assert_highest_logits, tiny_gpt, tiny_window_gpt, tokens

from vqgan_fast.sampling import sample_codes
from vqgan_fast.sampling.draw import DrawRule
from vqgan_fast.sampling.ring_engine import RingEngine

WINDOW = 4


@torch.no_grad()
def window_logits(gpt, cond, codes, top, left, rank):
    """Logits (B, V) behind the first `rank` codes of a window, from the whole sequence."""
    rows, columns = slice(top, top + WINDOW), slice(left, left + WINDOW)
    prefix = cond[:, rows, columns].flatten(1) if cond.ndim == 3 else cond
    shown = codes[:, rows, columns].flatten(1)[:, :rank]
    return gpt(torch.cat([prefix, shown], dim=1), logits_from=-1)[:, 0].float()


def block_definition(gpt, cond, grid, stride, rule, seeds, known=None):
    """Windows at 0, s, 2s, ...; each draws what is not drawn, row by row, no cache."""
    width = grid[1]
    codes = torch.full((len(cond), *grid), -1) if known is None else known.clone()
    tops, lefts = (
        sorted({min(start, size - WINDOW) for start in range(0, size, stride)}) for size in grid
    )
    for top in tops:
        for left in lefts:
            for rank in range(WINDOW**2):
                row, column = top + rank // WINDOW, left + rank % WINDOW
                if codes[0, row, column] >= 0:
                    continue
                logits = window_logits(gpt, cond, codes, top, left, rank)
                cells = torch.full_like(seeds, row * width + column)
                codes[:, row, column] = rule.draw(logits, seeds, cells)[0]
    return codes


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("grid", [(4, 4), (5, 11), (9, 6)])
@pytest.mark.parametrize("spatial", [False, True])
def test_blocks_equal_their_definition_without_a_cache(stride, grid, spatial):
    gpt, seeds = tiny_gpt(block_size=31), torch.tensor([5, 6])
    cond = tokens(2, *grid) if spatial else tokens(2, 1)
    expected = block_definition(gpt, cond, grid, stride, DrawRule(top_k=9), seeds)
    codes = sample_codes(
        gpt, cond, grid, window=WINDOW, schedule="block", stride=stride, top_k=9, seeds=seeds
    )
    assert torch.equal(codes, expected)
    assert len(codes.unique()) > 4


def test_blocks_complete_a_picture_as_their_definition_does():
    gpt, seeds, grid = tiny_gpt(block_size=31), torch.tensor([5, 6]), (8, 9)
    known = tokens(*grid).masked_fill(tokens(*grid, seed=1) % 3 == 0, -1).expand(2, *grid)
    expected = block_definition(gpt, tokens(2, 1), grid, 2, DrawRule(), seeds, known)
    codes = sample_codes(
        gpt, tokens(2, 1), grid, window=4, schedule="block", stride=2, seeds=seeds, known=known
    )
    assert torch.equal(codes, expected)


@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (13, 11), (3, 20)])
@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("reach", [1, 3])
def test_native_codes_follow_the_logits_of_the_whole_grid(grid, spatial, reach):
    gpt = tiny_window_gpt(reach=reach)
    cond = tokens(2, *grid) if spatial else tokens(2, 1)
    codes, logprobs = sample_codes(gpt, cond, grid, greedy=True, return_logprobs=True)
    assert_highest_logits(gpt, cond, codes, logprobs)


def test_native_draws_equal_draws_from_the_logits_of_the_whole_grid():
    gpt, grid, seeds = tiny_window_gpt(), (7, 6), torch.tensor([8, 9])
    cond, codes = tokens(2, 1), torch.zeros(2, 7, 6, dtype=torch.int64)
    for cell in range(7 * 6):
        with torch.no_grad():
            logits = gpt(codes, cond)[:, cell].float()
        drawn, _ = DrawRule(0.9, top_p=0.8).draw(logits, seeds, torch.full_like(seeds, cell))
        codes.view(2, -1)[:, cell] = drawn
    assert torch.equal(
        sample_codes(gpt, cond, grid, temperature=0.9, top_p=0.8, seeds=seeds), codes
    )


def test_native_forwards_one_token_for_each_code(monkeypatch):
    engines = []
    advance = RingEngine.advance
    monkeypatch.setattr(
        RingEngine,
        "advance",
        lambda self, one_pass: engines.append(self) or advance(self, one_pass),
    )
    sample_codes(tiny_window_gpt(), tokens(2, 1), (12, 15))
    assert engines[-1].tokens_forwarded == 2 * 12 * 15


@pytest.mark.parametrize("native", [False, True])
def test_logprobs_are_those_of_the_codes_given_what_was_seen(native):
    cond, grid = tokens(3, 1), (4, 4)  # one window, so that one pass gives all logits
    gpt = tiny_window_gpt() if native else tiny_gpt(block_size=16)
    codes, logprobs = sample_codes(
        gpt, cond, grid, window=4, temperature=2.0, top_k=5, return_logprobs=True
    )
    with torch.no_grad():
        sequence = torch.cat([cond, codes.flatten(1)], 1)[:, :-1]
        logits = gpt(codes, cond) if native else gpt(sequence)
    expected = logits.log_softmax(-1).gather(-1, codes.flatten(1)[..., None]).view_as(logprobs)
    torch.testing.assert_close(logprobs, expected.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("schedule", ["exact", "block", "native"])
@pytest.mark.parametrize("guidance", [3.0, lambda share: 1 + 4 * share], ids=["number", "schedule"])
@pytest.mark.parametrize("shapes", [("one", "one"), ("grid", "one"), ("one", "grid")])
def test_guidance(schedule, guidance, shapes):
    """Greedy codes are the highest of uncond + g (cond - uncond) of two runs that see them."""
    grid = (6, 7)
    native = schedule == "native"
    gpt = tiny_window_gpt() if native else tiny_gpt(block_size=31)
    cond, uncond = (
        tokens(2, *grid, seed=i) if shape == "grid" else tokens(2, 1, seed=i)
        for i, shape in enumerate(shapes)
    )
    codes = sample_codes(
        gpt, cond, grid, window=4, schedule=schedule, greedy=True, guidance=guidance,
        uncond=uncond,
    )  # fmt: skip
    seen = []
    for condition in (cond, uncond):
        if native:
            with torch.no_grad():
                seen.append(gpt(codes, condition))
            continue
        seen.append(
            torch.stack(
                [window_logits(gpt, condition, codes, *place) for place in places(schedule, grid)],
                1,
            )
        )
    share = torch.arange(42) / 42
    scale = guidance(share) if callable(guidance) else torch.full((42,), guidance)
    guided = seen[1].double() + scale[:, None] * (seen[0].double() - seen[1].double())
    assert torch.equal(guided.argmax(-1).view_as(codes), codes)
    assert not torch.equal(seen[0].argmax(-1).view_as(codes), codes)


def places(schedule, grid):
    """Top, left and rank of the window in which each cell is drawn."""
    height, width = grid
    found = {}
    if schedule == "exact":
        for row in range(height):
            for column in range(width):
                top, left = (
                    min(max(x - 2, 0), n - 4) for x, n in zip((row, column), grid, strict=True)
                )
                found[row, column] = (top, left, 4 * (row - top) + column - left)
    else:
        for top in (0, 2):
            for left in (0, 2, 3):
                for rank in range(16):
                    cell = (top + rank // 4, left + rank % 4)
                    found.setdefault(cell, (top, left, rank))
    return [found[divmod(cell, width)] for cell in range(height * width)]


def test_guidance_of_one_forwards_the_condition_alone(monkeypatch):
    gpt, cond = tiny_gpt(block_size=16), tokens(2, 1)
    plain = sample_codes(gpt, cond, (4, 6), window=4, seeds=[1, 2])
    same = sample_codes(gpt, cond, (4, 6), window=4, seeds=[1, 2], uncond=tokens(1, 1, seed=4))
    assert torch.equal(same, plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"stride": 4}, r"stride must lie in \[1, 3\], got 4"),
        ({"schedule": "native"}, 'schedule must be "exact" or "block" for a GPT, got .native.'),
        ({"guidance": 2.0}, "uncond must be given for a guidance other than 1, got 2"),
        (
            {"guidance": float("nan"), "uncond": tokens(1, 1)},
            "guidance must be a finite number, got nan",
        ),
        ({"uncond": tokens(3, 1), "guidance": 2}, "uncond must have a batch of 1 or 2, got 3"),
        ({"uncond": tokens(1, 1) + VOCAB_SIZE, "guidance": 2}, r"uncond must lie in \[0, 24\)"),
        ({"min_p": 1.5}, r"min_p must be in \(0, 1\] or None, got 1.5"),
        ({"max_cache_bytes": 0}, "max_cache_bytes must be at least 1, got 0"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"window": 4, "schedule": "block", "stride": 2, **change}
    with pytest.raises(ValueError, match=message):
        sample_codes(tiny_gpt(block_size=16), tokens(2, 1), (6, 6), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "exact"}, 'schedule must be "native" for a WindowGPT, got .exact.'),
        ({"cond": tokens(2, 2)}, r"cond must be \(B, 1\) or \(B, 6, 6\) for the grid, got shape"),
        ({"cond": tokens(2, 5, 6)}, r"cond must be \(B, 1\) or \(B, 6, 6\) for the grid"),
        ({"grid": (0, 4)}, "grid must be positive, got 0 x 4"),
    ],
)
def test_bad_arguments_of_the_native_schedule(change, message):
    arguments = {"cond": tokens(2, 1), "grid": (6, 6), **change}
    with pytest.raises(ValueError, match=message):
        sample_codes(tiny_window_gpt(), **arguments)


def test_windows_of_one_code_leave_no_cell_out():
    gpt, options = tiny_gpt(block_size=16), {"window": 1, "schedule": "block"}
    with pytest.raises(ValueError, match=r"stride must lie in \[1, 1\], got 2"):
        sample_codes(gpt, tokens(2, 1), (6, 6), stride=2, **options)
    assert (sample_codes(gpt, tokens(2, 1), (6, 6), stride=1, **options) >= 0).all()
