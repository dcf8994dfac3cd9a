"""What must not enter an image's codes: order, batch, threads, room for keys and values."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_gpt, tiny_window_gpt, tokens

from vqgan_fast.sampling import pack, sample_codes
from vqgan_fast.sampling.window_engine import WindowEngine

SOS = torch.zeros(1, 1, dtype=torch.int64)


def equal(a, b):
    """Codes and log-probabilities, to the bit."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_wavefront_and_raster_give_100_seeds_the_same_bits():
    gpt = pack(tiny_gpt(block_size=16))
    common = {"window": 4, "seeds": range(100), "top_k": 12, "return_logprobs": True}
    cond = SOS.expand(100, 1)
    raster = sample_codes(gpt, cond, (24, 40), order="raster", **common)
    assert equal(raster, sample_codes(gpt, cond, (24, 40), order="wavefront", **common))
    assert len({bytes(image.numpy()) for image in raster[0]}) == 100


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("schedule", ["exact", "block", "native"])
@pytest.mark.parametrize("spatial", [False, True])
def test_nothing_but_condition_and_seed_enters(schedule, spatial, restore_threads):
    grid = (9, 13)
    gpt = tiny_window_gpt() if schedule == "native" else tiny_gpt(block_size=64)
    cond = tokens(4, *grid) if spatial else tokens(4, 1)
    common = {
        "window": 4, "schedule": schedule, "return_logprobs": True, "temperature": 1.2,
        "stride": 3 if schedule == "block" else None,
    }  # fmt: skip
    seeds = [3, 2**63 + 9, 3, -1]
    whole = sample_codes(gpt, cond, grid, seeds=seeds, **common)
    for changes in (
        {"order": "raster"},
        {"max_cache_bytes": 40_000},
        {"order": "raster", "max_cache_bytes": 40_000},
    ):
        assert equal(sample_codes(gpt, cond, grid, seeds=seeds, **common, **changes), whole)
    for row in range(4):
        part = slice(row, row + 1)
        alone = sample_codes(gpt, cond[part], grid, seeds=seeds[part], **common)
        assert equal(alone, [result[part] for result in whole])
    torch.set_num_threads(3)
    assert equal(sample_codes(gpt, cond, grid, seeds=seeds, **common), whole)


@pytest.mark.parametrize("schedule", ["exact", "block", "native"])
@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_narrow_weights_keep_the_promises_and_come_close(schedule, weights):
    gpt = tiny_window_gpt() if schedule == "native" else tiny_gpt(block_size=64)
    cond, common = tokens(3, 1), {"window": 4, "schedule": schedule, "return_logprobs": True}
    whole = sample_codes(gpt, cond, (6, 9), seeds=range(3), weights=weights, **common)
    raster = sample_codes(
        gpt, cond, (6, 9), seeds=range(3), weights=weights, order="raster", **common
    )
    assert equal(raster, whole)
    # Of the same codes, what these weights and the full ones say.
    first = whole[0].clone()
    first[:, 0, 1:], first[:, 1:] = -1, -1
    common = {**common, "seeds": range(3), "known": first, "greedy": True}
    narrow, full = (
        sample_codes(gpt, cond, (6, 9), weights=w, **common)[1][:, 0, 1] for w in (weights, None)
    )
    torch.testing.assert_close(narrow, full, atol=0.3, rtol=0)
    assert not torch.equal(narrow, full)


def test_slots_are_as_many_as_are_used_and_no_more_than_fit(monkeypatch):
    slots = []
    advance = WindowEngine.advance
    monkeypatch.setattr(
        WindowEngine,
        "advance",
        lambda self, one_pass: slots.append(self.num_slots) or advance(self, one_pass),
    )
    gpt = tiny_gpt(block_size=16)
    sample_codes(gpt, SOS, (4, 9), window=4)
    assert set(slots) == {6}
    slots.clear()
    token_bytes = 2 * 2 * 16 * 4
    sample_codes(gpt, SOS, (4, 9), window=4, max_cache_bytes=3 * 16 * token_bytes)
    assert set(slots) == {3}


@pytest.mark.parametrize("native", [False, True])
def test_a_cache_too_short_for_anything(native):
    gpt = tiny_window_gpt() if native else tiny_gpt(block_size=16)
    with pytest.raises(
        ValueError, match=r"max_cache_bytes \(--cache-gb\) must be at least \d+ bytes, .* got 100"
    ):
        sample_codes(gpt, SOS, (4, 9), window=4, max_cache_bytes=100)


def test_calls_share_packed_weights():
    gpt = tiny_gpt(block_size=16)
    packed = pack(gpt, "bfloat16")
    expected = sample_codes(gpt, SOS, (4, 6), window=4, seeds=[1], weights="bfloat16")
    assert torch.equal(sample_codes(packed, SOS, (4, 6), window=4, seeds=[1]), expected)
    with torch.no_grad():
        gpt.head.weight.zero_()
    assert torch.equal(sample_codes(packed, SOS, (4, 6), window=4, seeds=[1]), expected)
    with pytest.raises(ValueError, match=r"weights must be None or 'bfloat16', .* got 'int8'"):
        sample_codes(packed, SOS, (4, 6), window=4, weights="int8")


def test_weights_are_held_as_the_model_holds_them():
    assert pack(tiny_gpt(block_size=16)).weights == "float32"
    assert pack(tiny_gpt(block_size=16).half()).weights == "float32"
    assert pack(tiny_gpt(block_size=16).bfloat16()).weights == "bfloat16"
    with pytest.raises(ValueError, match=r"weights must be float32, .* got 'int4'"):
        pack(tiny_gpt(block_size=16), "int4")
    with pytest.raises(ValueError, match=r"gpt must be a GPT, .* got Linear"):
        pack(torch.nn.Linear(2, 2))
