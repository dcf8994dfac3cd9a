"""What sample_codes refuses, and what it tells of a model whose logits are no numbers."""

from __future__ import annotations

import pytest
import torch
from tiny_models import VOCAB_SIZE, tiny_gpt, tokens

from vqgan_fast.ops import reference
from vqgan_fast.sampling import LogitsError, pack, sample_codes

SOS = torch.zeros(2, 1, dtype=torch.int64)


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
