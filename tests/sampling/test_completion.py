"""Known codes: what is kept, what is drawn, and going on after an interruption."""

from __future__ import annotations

import pytest
import torch
from tiny_models import VOCAB_SIZE, tiny_gpt, tiny_window_gpt, tokens

from vqgan_fast.sampling import SamplingInterrupted, sample_codes
from vqgan_fast.sampling.board import Board

GRID = (8, 9)
SCHEDULES = ("exact", "block", "native")


def model(schedule):
    return tiny_window_gpt() if schedule == "native" else tiny_gpt(block_size=16)


def options(schedule):
    return {"window": 4, "schedule": schedule, "seeds": [1, 2]}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("share", [0.1, 0.6, 0.97])
def test_a_part_of_a_sampled_picture_is_completed_to_the_same_picture(schedule, share):
    """Each draw is a function of what it sees, so known codes change nothing behind them."""
    gpt, cond = model(schedule), tokens(2, 1)
    whole, logprobs = sample_codes(gpt, cond, GRID, return_logprobs=True, **options(schedule))
    keep = torch.rand(2, *GRID, generator=torch.Generator().manual_seed(3)) < share
    for known, mask in ((whole, keep), (whole.masked_fill(~keep, -1), None)):
        codes, again = sample_codes(
            gpt, cond, GRID, known=known, keep=mask, return_logprobs=True, **options(schedule)
        )
        assert torch.equal(codes, whole)
        assert torch.equal(again, logprobs.masked_fill(keep, 0))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_kept_codes_stay_and_change_what_comes_after(schedule):
    gpt, cond = model(schedule), tokens(2, 1)
    known = torch.full(GRID, -1)
    known[:4] = 5
    codes = sample_codes(gpt, cond, GRID, known=known, **options(schedule))
    free = sample_codes(gpt, cond, GRID, **options(schedule))
    assert (codes[:, :4] == 5).all()
    assert not torch.equal(codes[:, 4:], free[:, 4:])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_known_picture_takes_no_steps(schedule):
    calls = []
    known = tokens(*GRID)
    codes = sample_codes(
        model(schedule), tokens(2, 1), GRID, known=known,
        callback=lambda *call: calls.append(call), **options(schedule),
    )  # fmt: skip
    assert torch.equal(codes, known.expand(2, *GRID))
    assert not calls


def test_a_mask_shortens_the_wavefront():
    def steps(known):
        calls = []
        sample_codes(
            tiny_gpt(block_size=16), tokens(2, 1), GRID, window=4, known=known,
            callback=lambda *call: calls.append(call[:2]),
        )  # fmt: skip
        return calls

    assert len(steps(None)) == 4 * (8 - 1) + 9
    known = tokens(2, *GRID)
    known[:, 3, 2:5] = -1
    known[1, 3, 4] = 7
    assert steps(known) == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("order", ["raster", "wavefront"])
def test_an_interrupted_run_goes_on_where_it_stopped(schedule, order):
    gpt, cond = model(schedule), tokens(2, 1)
    whole, logprobs = sample_codes(gpt, cond, GRID, return_logprobs=True, **options(schedule))

    def interrupt(done, total, codes):
        assert total == 2 * 72
        assert int((codes >= 0).sum()) == done
        if done > 50:
            raise KeyboardInterrupt

    with pytest.raises(SamplingInterrupted, match=r"interrupted after 5. of 144") as caught:
        sample_codes(gpt, cond, GRID, order=order, callback=interrupt, **options(schedule))
    partial = caught.value
    drawn = partial.codes >= 0
    assert partial.done == int(drawn.sum())
    assert torch.equal(partial.codes[drawn], whole[drawn])
    assert torch.equal(partial.logprobs, logprobs.masked_fill(~drawn, 0))
    gone_on = sample_codes(gpt, cond, GRID, known=partial.codes, **options(schedule))
    assert torch.equal(gone_on, whole)


@pytest.mark.parametrize("written", ["all", "log-probabilities"])
def test_what_an_interrupted_run_tells_agrees_wherever_the_interruption_comes(monkeypatch, written):
    """Ctrl-C can come between any two statements, here while codes are put down."""
    put, calls = Board.put, []

    def interrupted(board, images, cells, codes, logprobs):
        calls.append(codes)
        before = board.codes.clone()
        put(board, images, cells, codes, logprobs)
        if len(calls) == 10:
            if written != "all":
                board.codes.copy_(before)
            raise KeyboardInterrupt

    gpt, cond = model("exact"), tokens(2, 1)
    whole, logprobs = sample_codes(gpt, cond, GRID, return_logprobs=True, **options("exact"))
    monkeypatch.setattr(Board, "put", interrupted)
    with pytest.raises(SamplingInterrupted) as caught:
        sample_codes(gpt, cond, GRID, order="raster", **options("exact"))
    partial = caught.value
    drawn = partial.codes >= 0
    assert partial.done == int(drawn.sum()) == (20 if written == "all" else 18)
    assert torch.equal(partial.codes[drawn], whole[drawn])
    assert torch.equal(partial.logprobs, logprobs.masked_fill(~drawn, 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"known": tokens(8, 8)}, r"known must be \(B, H, W\) = \(2, 8, 9\) or .* got \(8, 8\)"),
        ({"known": tokens(8, 9).numpy()}, "known must be a tensor, got ndarray"),
        ({"known": tokens(8, 9), "keep": [[True] * 9] * 8}, "keep must be a tensor, got list"),
        ({"known": tokens(8, 9).float()}, "known must be int64 or int32, got torch.float32"),
        ({"known": tokens(8, 9) + VOCAB_SIZE}, r"known must lie in \[0, 24\)"),
        ({"known": tokens(8, 9) - 2}, r"known must lie in \[0, 24\), got -2"),
        ({"keep": torch.ones(8, 9) > 0}, "keep must be None where no known codes are given"),
        (
            {"known": tokens(8, 9), "keep": torch.ones(9, 8) > 0},
            r"keep must be \(B, H, W\) = \(2, 8, 9\) or \(H, W\) = \(8, 9\), got \(9, 8\)",
        ),
        ({"known": tokens(8, 9), "keep": tokens(8, 9)}, "keep must be bool, got torch.int64"),
        (
            {"known": tokens(8, 9) * 0 - 1, "keep": torch.ones(8, 9) > 0},
            "keep must be False where known is -1, an unknown code",
        ),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        sample_codes(tiny_gpt(block_size=16), tokens(2, 1), GRID, window=4, **change)
