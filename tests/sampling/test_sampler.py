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
from vqgan_fast.ops import reference
from vqgan_fast.sampling import LogitsError, pack, sample_codes
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


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_diverged_are_reported(value):
    gpt = tiny_gpt(block_size=16)
    with torch.no_grad():
        gpt.head.weight[3, 1] = value
    with pytest.raises(ValueError, match=r"finite weights, but head\.weight holds NaN or infinity"):
        sample_codes(gpt, SOS, (4, 4), window=4)


@pytest.mark.parametrize("greedy", [False, True])
def test_logits_that_are_no_numbers_are_reported(greedy):
    packed = pack(tiny_gpt(block_size=16))
    packed.tok_emb.fill_(torch.nan)
    with pytest.raises(LogitsError, match=r"cell \(0, 0\) of image 0 hold NaN") as caught:
        sample_codes(packed, SOS, (4, 4), window=4, greedy=greedy)
    assert ".cpp" not in str(caught.value)


@pytest.mark.parametrize("has_kernel", [True, False])
def test_finite_weights_whose_logits_overflow_are_reported_with_the_cell(has_kernel, monkeypatch):
    if not has_kernel:
        monkeypatch.setattr(torch.ops.vqgan_fast, "sample_logits", reference.sample_logits)
    gpt = tiny_gpt(block_size=16)
    with torch.no_grad():
        gpt.tok_emb.weight[7] = 3e38  # the layer norm's variance overflows once a code is 7
    known = torch.full((2, 4, 4), -1)
    known[1, 0, :3] = torch.tensor([1, 7, 2])
    with pytest.raises(LogitsError, match=r"cell \(0, 3\) of image 1 .* so large that fp32 overf"):
        sample_codes(gpt, SOS, (4, 4), window=4, known=known, top_k=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (3, 8)}, r"grid must be at least as large as the window, 4 x 4 codes, got 3 x 8"),
        ({"grid": (8, 3)}, r"grid must be at least as large as the window, 4 x 4 codes, got 8 x 3"),
        ({"grid": (2**31, 4)}, r"grid must have at most 2\^32 cells, got 2147483648 x 4"),
        ({"grid": (4, 4, 4)}, r"grid must be two integers \(H, W\), got \(4, 4, 4\)"),
        ({"grid": 4}, r"grid must be two integers \(H, W\), got 4"),
        ({"grid": (4.0, 4.0)}, r"grid must be two integers \(H, W\), got \(4\.0, 4\.0\)"),
        ({"cond": SOS + VOCAB_SIZE}, r"cond must lie in \[0, 24\), got 24"),
        ({"cond": SOS - 1}, r"cond must lie in \[0, 24\), got -1"),
        ({"cond": SOS.tolist()}, r"cond must be a tensor, got list"),
        ({"cond": None}, r"cond must be a tensor, got NoneType"),
        ({"cond": 3}, r"cond must be a tensor, got int"),
        ({"cond": (SOS, None)}, r"cond must be a tensor, got NoneType"),
        ({"uncond": SOS.numpy()}, r"uncond must be a tensor, got ndarray"),
        ({"cond": SOS.float()}, r"cond must be int64 or int32, got torch\.float32"),
        ({"cond": SOS[:, 0]}, r"cond must be \(B, T\) tokens .*, got shape \(2,\)"),
        ({"cond": SOS[:, :0]}, r"cond must be \(B, T\) tokens .*, got shape \(2, 0\)"),
        ({"cond": SOS[:0]}, r"cond must hold at least one image, got a batch of 0"),
        ({"cond": tokens(2, 4, 5)}, r"cond must be .* or \(B, 4, 4\) for the grid, got shape"),
        ({"cond": tokens(2, 2)}, r"window must satisfy window\^2 \+ T - 1 <= gpt\.block_size = 16"),
        ({"seeds": [1, 2, 3]}, r"seeds must hold one integer for each image, 2 of them, got 3"),
        ({"schedule": "blocks"}, r"schedule must be one of \['block', .*\], got 'blocks'"),
        ({"order": "spiral"}, r"order must be one of \['raster', .*\], got 'spiral'"),
        ({"top_k": 25}, r"top_k must be at most the 24 codes, got 25"),
        ({"top_k": 2**70}, r"top_k must be at most the 24 codes, got 1180591620717411303424"),
        ({"top_k": 6, "num_codes": 5}, r"top_k must be at most the 5 codes, got 6"),
        ({"num_codes": 25}, r"num_codes must lie in \[1, 24\], got 25"),
        ({"temperature": -1.0}, r"temperature must be a finite number >= 0, got -1\.0"),
        ({"temperature": "1"}, r"temperature must be a finite number >= 0, got '1'"),
        ({"temperature": True}, r"temperature must be a finite number >= 0, got True"),
        ({"top_p": "1"}, r"top_p must be in \(0, 1\] or None, got '1'"),
        ({"min_p": [0.5]}, r"min_p must be in \(0, 1\] or None, got \[0\.5\]"),
        ({"guidance": "2", "uncond": SOS}, r"guidance must be a finite number, got '2'"),
        (
            {"guidance": lambda share: None, "uncond": SOS},
            r"guidance must be a finite number, got None",
        ),
        ({"guidance": "2"}, r"guidance must be a finite number, got '2'"),
        ({"guidance": torch.tensor([1.0, 2.0])}, r"guidance must be a finite number, got tensor"),
        ({"temperature": torch.tensor(2.0)}, r"temperature must be a finite number >= 0, got te"),
        ({"guidance": lambda share: 2}, r"guidance other than 1, got a function"),
        ({"callback": 3}, r"callback must be a function or None, got 3"),
        ({"seeds": 3}, r"seeds must hold one integer for each image, got 3"),
        ({"known": [[1]]}, r"known must be a tensor, got list"),
        ({"grid": 4.0}, r"grid must be two integers \(H, W\), got 4\.0"),
        ({"stride": 2}, r'stride must be None without schedule = "block", got 2'),
        ({"stride": 2, "schedule": "exact"}, r'stride must be None without schedule = "block"'),
        ({"stride": 2.0, "schedule": "block"}, r"stride must be an integer, got 2\.0"),
        ({"top_p": 2.0}, r"top_p must be in \(0, 1\] or None, got 2\.0"),
        ({"num_codes": 8.0}, r"num_codes must be an integer, got 8\.0"),
        ({"window": 0}, r"window must be at least 1, got 0"),
        ({"window": 4.0}, r"window must be an integer, got 4\.0"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"cond": SOS, "grid": (4, 4), "window": 4, **change}
    with pytest.raises(ValueError, match=message):
        sample_codes(tiny_gpt(block_size=16), **arguments)


def test_a_condition_shorter_than_the_unmasked_prefix():
    gpt = tiny_gpt(block_size=31, n_unmasked=3)
    with pytest.raises(ValueError, match=r"cond must have at least the 3 tokens .*, got 1"):
        sample_codes(gpt, SOS, (4, 4), window=4)


def test_a_guidance_that_overflows_is_named():
    gpt, uncond = tiny_gpt(block_size=16), tokens(1, 1, seed=4)
    with pytest.raises(ValueError, match=r"guidance must leave .* finite in fp64, got 1\.7e\+308"):
        sample_codes(gpt, SOS, (4, 4), window=4, guidance=1.7e308, uncond=uncond)


def test_the_default_device_does_not_enter():
    gpt = tiny_gpt(block_size=16)
    known = torch.full((4, 4), -1)
    known[0] = 3
    options = {"window": 4, "known": known, "guidance": 2.0, "uncond": tokens(1, 1, seed=4)}
    expected = sample_codes(gpt, SOS, (4, 4), seeds=[1, 2], **options)
    with torch.device("meta"):
        assert torch.equal(sample_codes(gpt, SOS, (4, 4), seeds=[1, 2], **options), expected)
        assert sample_codes(gpt, SOS, (4, 4), window=4).device.type == "cpu"
