"""sample_codes against the reference's loop, and what it promises besides."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import taming_peer
import torch
from reference_loop import follows_the_reference, reference_codes
from tiny_models import VOCAB_SIZE, tiny_gpt, tiny_window_gpt, tokens

from vqgan_fast.models import GPT
from vqgan_fast.sampling import sample_codes
from vqgan_fast.sampling.draw import DrawRule

SOS = torch.zeros(2, 1, dtype=torch.int64)


def peer_of(gpt: GPT) -> torch.nn.Module:
    """The reference's own GPT with the same weights."""
    peer = taming_peer.gpt_class()(
        vocab_size=gpt.vocab_size,
        block_size=gpt.block_size,
        n_layer=gpt.n_layer,
        n_head=gpt.n_head,
        n_embd=gpt.n_embd,
        n_unmasked=gpt.n_unmasked,
    ).double()
    peer.load_state_dict(gpt.state_dict())
    return peer.eval()


def check_against_reference(gpt, cond, grid, window, **options):
    seeds = torch.arange(len(cond)) + 100
    expected = reference_codes(peer_of(gpt), cond, grid, window, DrawRule(**options), seeds)
    codes = sample_codes(gpt, cond, grid, window=window, seeds=seeds, **options)
    assert torch.equal(codes, expected)
    assert codes.dtype == torch.int64
    # A constant picture would prove little.
    assert len(codes.unique()) > 4


@pytest.mark.parametrize("grid", [(4, 4), (4, 9), (9, 4), (7, 6)])
@pytest.mark.parametrize("cond", ["sos", "class", "prefix", "spatial"])
def test_codes_equal_the_reference(grid, cond):
    conditions = {
        "sos": SOS,
        "class": torch.tensor([[3], [17]]),
        "prefix": tokens(2, 5),
        "spatial": tokens(2, *grid),
    }
    gpt = tiny_gpt(block_size=31)
    check_against_reference(gpt, conditions[cond], grid, 4)


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_codes_equal_the_reference_for_other_windows(window):
    check_against_reference(tiny_gpt(block_size=50), tokens(2, 6, 7), (6, 7), window)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.6},
        {"top_k": 5},
        {"top_p": 0.8},
        {"temperature": 1.3, "top_k": 9, "top_p": 0.7},
        {"greedy": True},
    ],
)
def test_codes_equal_the_reference_under_every_draw_rule(options):
    check_against_reference(tiny_gpt(block_size=16), tokens(3, 1), (6, 8), 4, **options)


@pytest.mark.parametrize("grid", [(16, 16), (16, 40), (24, 24), (32, 32)])
@pytest.mark.parametrize("spatial", [False, True])
def test_greedy_codes_equal_the_reference_for_its_own_window_of_16(grid, spatial):
    gpt = tiny_gpt(block_size=511, n_head=1)
    cond = tokens(1, *grid) if spatial else SOS[:1]
    codes = sample_codes(gpt, cond, grid, greedy=True)
    assert follows_the_reference(peer_of(gpt).float(), cond, codes, 16).all()
    assert len(codes.unique()) > 4


@pytest.mark.parametrize("cond", [tokens(2, 4), tokens(2, 6, 5)], ids=["prefix", "spatial"])
def test_codes_equal_the_reference_where_the_condition_sees_itself_both_ways(cond):
    gpt = tiny_gpt(block_size=31, n_unmasked=4 if cond.ndim == 2 else 16)
    check_against_reference(gpt, cond, (6, 5), 4)


@pytest.mark.parametrize("grid", [(4, 4), (5, 7)])
def test_an_image_does_not_depend_on_its_batch(grid):
    gpt = tiny_gpt(block_size=31)
    cond = tokens(5, *grid)
    seeds = [9, 2**63 + 1, -5, 0, 77]
    together = sample_codes(gpt, cond, grid, window=4, seeds=seeds, top_k=12)
    order = [3, 0, 4, 2, 1]
    permuted = sample_codes(
        gpt, cond[order], grid, window=4, seeds=[seeds[i] for i in order], top_k=12
    )
    assert torch.equal(permuted, together[order])
    for row in range(5):
        alone = sample_codes(
            gpt, cond[row : row + 1], grid, window=4, seeds=seeds[row : row + 1], top_k=12
        )
        assert torch.equal(alone[0], together[row])


def test_seeds_decide_the_image_and_default_to_the_global_generator():
    gpt = tiny_gpt(block_size=16)
    same = sample_codes(gpt, SOS, (4, 4), window=4, seeds=[8, 8])
    assert torch.equal(same[0], same[1])
    torch.manual_seed(1)
    first = sample_codes(gpt, SOS, (4, 4), window=4)
    second = sample_codes(gpt, SOS, (4, 4), window=4)
    torch.manual_seed(1)
    assert torch.equal(sample_codes(gpt, SOS, (4, 4), window=4), first)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_callback_sees_the_codes_so_far():
    calls = []
    codes = sample_codes(
        tiny_gpt(block_size=16),
        SOS,
        (4, 5),
        window=4,
        order="raster",
        seeds=[1, 2],
        callback=lambda *call: calls.append(call),
    )
    assert [(done, total) for done, total, _ in calls] == [(2 * i + 2, 40) for i in range(20)]
    for step, (_, _, partial) in enumerate(calls, start=1):
        assert torch.equal(partial.flatten(1)[:, :step], codes.flatten(1)[:, :step])
        assert (partial.flatten(1)[:, step:] == -1).all()


def test_progress_shows_a_bar(capsys):
    sample_codes(tiny_gpt(block_size=16), SOS, (4, 5), window=4, seeds=[1, 2], progress=True)
    shown = capsys.readouterr().err
    assert "40/40" in shown
    assert "code/s" in shown


def test_progress_without_tqdm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="progress=True needs tqdm: pip install tqdm"):
        sample_codes(tiny_gpt(block_size=16), SOS, (4, 4), window=4, progress=True)


def test_dropout_is_off_and_every_part_gets_its_mode_back():
    gpt = tiny_gpt(block_size=16, dropout=0.5)
    expected = sample_codes(gpt, SOS, (4, 4), window=4, seeds=[1, 2])
    gpt.train()
    gpt.head.eval()
    modes = {name: part.training for name, part in gpt.named_modules()}
    assert torch.equal(sample_codes(gpt, SOS, (4, 4), window=4, seeds=[1, 2]), expected)
    assert {name: part.training for name, part in gpt.named_modules()} == modes


def test_codes_may_be_trained_on():
    gpt = tiny_gpt(block_size=16)
    partial = []

    def train_a_step(_done, _total, codes):
        assert torch.is_grad_enabled()
        gpt(codes.clamp_min(0).flatten(1)).sum().backward()
        partial.append(codes)

    codes = sample_codes(gpt, SOS, (4, 4), window=4, callback=train_a_step)
    gpt(codes.flatten(1)).sum().backward()
    assert gpt.tok_emb.weight.grad.abs().sum() > 0
    assert torch.equal(partial[-1], codes)


def test_samples_inside_a_compiled_function():
    gpt = tiny_gpt(block_size=16)

    def draw(cond):
        return sample_codes(gpt, cond, (4, 4), window=4, seeds=[1, 2]) + 1

    assert torch.equal(torch.compile(draw, backend="eager")(SOS), draw(SOS))


@pytest.mark.parametrize("native", [False, True])
def test_neither_autocast_nor_the_default_dtype_enter(native):
    gpt = tiny_window_gpt() if native else tiny_gpt(block_size=16)
    common = {"window": 4, "seeds": [1, 2], "return_logprobs": True}
    expected = sample_codes(gpt, SOS, (4, 6), **common)
    with torch.autocast("cpu", torch.bfloat16):
        found = [sample_codes(gpt, SOS, (4, 6), **common)]
    torch.set_default_dtype(torch.float64)
    try:
        found.append(sample_codes(gpt, SOS, (4, 6), **common))
    finally:
        torch.set_default_dtype(torch.float32)
    for codes, logprobs in found:
        assert torch.equal(codes, expected[0])
        assert torch.equal(logprobs, expected[1])
        assert logprobs.dtype == torch.float32


def test_num_codes_keeps_the_vocabularys_other_tokens_out():
    cond = torch.full((8, 1), VOCAB_SIZE - 1)
    codes = sample_codes(
        tiny_gpt(block_size=16), cond, (4, 4), window=4, temperature=100.0, num_codes=5
    )
    assert codes.unique().tolist() == [0, 1, 2, 3, 4]


def test_numpys_integers_are_integers():
    gpt = tiny_gpt(block_size=16)
    grid, four, seeds = np.array([4, 5]), np.int64(4), np.array([1, 2**64 - 1], dtype=np.uint64)
    codes = sample_codes(gpt, SOS, grid, window=four, top_k=four, num_codes=four, seeds=seeds)
    expected = sample_codes(gpt, SOS, (4, 5), window=4, top_k=4, num_codes=4, seeds=[1, -1])
    assert torch.equal(codes, expected)


def test_the_default_device_does_not_enter():
    gpt = tiny_gpt(block_size=16)
    known = torch.full((4, 4), -1)
    known[0] = 3
    options = {"window": 4, "known": known, "guidance": 2.0, "uncond": tokens(1, 1, seed=4)}
    expected = sample_codes(gpt, SOS, (4, 4), seeds=[1, 2], **options)
    with torch.device("meta"):
        assert torch.equal(sample_codes(gpt, SOS, (4, 4), seeds=[1, 2], **options), expected)
        assert sample_codes(gpt, SOS, (4, 4), window=4).device.type == "cpu"
