from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from vqgan_fast import ops
from vqgan_fast.ops import reference
from vqgan_fast.ops.reference.philox import gumbel_noise

INF, NAN = float("inf"), float("nan")
SIZES = ((1, 1), (3, 7), (40, 33), (9, 1000))
RULES = {
    "plain": {},
    "cold": {"temperature": 0.3},
    "hot": {"temperature": 2.5},
    "greedy": {"greedy": True},
    "temperature 0": {"temperature": 0.0},
    "top-k": {"top_k": 5},
    "top-1": {"top_k": 1},
    "top-p": {"top_p": 0.7},
    "tiny top-p": {"top_p": 1e-9},
    "min-p": {"min_p": 0.2},
    "min-p 1": {"min_p": 1.0},
    "all": {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
}


def seeds_and_cells(rows: int) -> tuple[Tensor, Tensor]:
    seeds = torch.randint(-(2**63), 2**63 - 1, (rows,))
    return seeds, torch.randint(2**32, (rows,))


def definition(logits: Tensor, seeds: Tensor, cells: Tensor, uncond=None, guidance=1.0, **rule):
    """The reference, by the public function's options."""
    min_p, top_p = rule.get("min_p"), rule.get("top_p")
    return reference.sample_logits(
        logits,
        seeds,
        cells,
        uncond,
        guidance,
        0.0 if rule.get("greedy") else rule.get("temperature", 1.0),
        min(rule.get("top_k", 0), logits.shape[1]),
        1.0 if top_p is None else top_p,
        -INF if min_p is None else math.log(min_p),
    )


def clipped(rule: dict, num_codes: int) -> dict:
    return rule | {"top_k": min(rule["top_k"], num_codes)} if "top_k" in rule else rule


def logits_of(kind: str, rows: int, codes: int) -> Tensor:
    logits = 3 * torch.randn(rows, codes)
    if kind == "ties":
        return logits.round()
    if kind == "equal":
        return torch.zeros(rows, codes)
    if kind == "forbidden":
        logits[torch.rand(rows, codes) < 0.6] = -INF
        logits[:, -1] = 0.5
        return logits
    return 40 * logits if kind == "spread" else logits


KINDS = ("random", "ties", "equal", "forbidden", "spread")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_the_definitions(kind: str, rule: str, level: str) -> None:
    for rows, codes in SIZES:
        logits, options = logits_of(kind, rows, codes), clipped(RULES[rule], codes)
        seeds, cells = seeds_and_cells(rows)
        found, logprobs = ops.sample_logits(logits, seeds, cells, **options)
        expected, expected_logprobs = definition(logits, seeds, cells, **options)
        assert torch.equal(found, expected)
        torch.testing.assert_close(logprobs, expected_logprobs, rtol=1e-6, atol=1e-6)
        exact = logits.double().log_softmax(-1).gather(1, found[:, None])[:, 0]
        torch.testing.assert_close(logprobs.double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", ["plain", "top-k", "all", "greedy"])
def test_guidance(rule: str, level: str) -> None:
    logits, uncond = logits_of("forbidden", 30, 60), logits_of("forbidden", 30, 60)
    seeds, cells = seeds_and_cells(30)
    for guidance in (0.0, 1.0, 2.5):
        arguments = {"uncond_logits": uncond, "guidance": guidance}
        found, logprobs = ops.sample_logits(logits, seeds, cells, **arguments, **RULES[rule])
        expected = definition(logits, seeds, cells, uncond, guidance, **RULES[rule])
        assert torch.equal(found, expected[0])
        torch.testing.assert_close(logprobs, expected[1])
        assert logits.gather(1, found[:, None]).isfinite().all()
        assert uncond.gather(1, found[:, None]).isfinite().all()


def test_top_k_parts_scores_that_differ_in_their_last_bit(level: str) -> None:
    logits = torch.tensor([[0.0, -1.0, -1.0]]).expand(500, 3)
    uncond = torch.tensor([[0.0, 0.0, -1.0]]).expand(500, 3)
    # 0, -1 - 2^-52 and -1.
    codes, _ = ops.sample_logits(
        logits, *seeds_and_cells(500), top_k=2, uncond_logits=uncond, guidance=1 + 2.0**-52
    )
    assert codes.unique().tolist() == [0, 2]


def test_every_level_and_row_alone_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch, level):
    logits, (seeds, cells) = 4 * torch.randn(50, 300), seeds_and_cells(50)
    together = ops.sample_logits(logits, seeds, cells, top_p=0.8)
    monkeypatch.setenv("VQGAN_FAST_ISA", "baseline")
    rows = [slice(b, b + 1) for b in range(50)]
    alone = [ops.sample_logits(logits[b], seeds[b], cells[b], top_p=0.8) for b in rows]
    for one, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert torch.equal(one, torch.cat(parts))


@pytest.mark.usefixtures("restore_threads")
def test_threads_and_strides_change_nothing() -> None:
    wide, (seeds, cells) = torch.randn(20, 90), seeds_and_cells(20)
    expected = ops.sample_logits(wide[:, :40].contiguous(), seeds, cells)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for logits in (wide[:, :40], wide[:, :40].T.contiguous().T):
            found = ops.sample_logits(logits, seeds, cells)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_noise_of_extreme_words(level: str) -> None:
    # Among 2^17 draws of one code against another the noise takes its extremes, and one rule
    # decides all: the larger of score and noise.
    seeds = torch.arange(1 << 12)
    cells = torch.zeros_like(seeds)
    noise = gumbel_noise(seeds, cells, torch.arange(32))
    found, _ = ops.sample_logits(torch.zeros(len(seeds), 32), seeds, cells)
    assert torch.equal(found, noise.argmax(1))
    assert noise.max() > 10 and noise.min() < -2


def test_forbidden_codes() -> None:
    logits, (seeds, cells) = torch.randn(200, 12), seeds_and_cells(200)
    forbidden = torch.arange(12) % 3 != 1
    codes, _ = ops.sample_logits(logits, seeds, cells, forbidden=forbidden)
    assert set(codes.tolist()) == {1, 4, 7, 10}
    each = torch.ones(200, 12, dtype=torch.bool)
    each[torch.arange(200), torch.arange(200) % 12] = False
    codes, _ = ops.sample_logits(logits, seeds, cells, forbidden=each)
    assert torch.equal(codes, torch.arange(200) % 12)


def test_a_wide_nucleus_leaves_out_what_is_left() -> None:
    logits = torch.tensor([[0.01, 0.5, 0.19, 0.3]]).log().expand(4000, 4)
    codes, _ = ops.sample_logits(logits, *seeds_and_cells(4000), top_p=0.985)
    assert codes.unique().tolist() == [1, 2, 3]


def test_draws_follow_the_filtered_distribution() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -9.0]])
    count = 20000
    seeds, cells = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    codes, _ = ops.sample_logits(logits.expand(count, 5), seeds, cells, 1.5, top_k=4, top_p=0.9)
    kept = (logits / 1.5)[0, :3].softmax(0)
    shares = torch.bincount(codes, minlength=5) / count
    assert (shares[3:] == 0).all()
    assert ((shares[:3] - kept).abs() < 4 * (kept * (1 - kept) / count).sqrt()).all()


@pytest.mark.parametrize("bad", [NAN, INF, "all masked"])
@pytest.mark.parametrize("greedy", [False, True])
def test_rows_that_cannot_be_drawn_from(bad: float | str, greedy: bool, level: str) -> None:
    for size, at in itertools.product((1, 5, 40), (0, -1)):
        logits = torch.randn(3, size)
        logits[1, at] = -INF if bad == "all masked" else bad
        if bad == "all masked":
            logits[1] = -INF
        with pytest.raises(RuntimeError, match=r"logits must hold no NaN .* row 1 does not"):
            ops.sample_logits(logits, *seeds_and_cells(3), greedy=greedy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"cells": torch.tensor([0, -1])},
            r"cells must lie in \[0, 4294967296\), got -1 for row 1",
        ),
        ({"cells": torch.tensor([2**32, 0])}, "cells must lie in .*, got 4294967296 for row 0"),
        ({"temperature": -1.0}, "temperature must be a finite number >= 0, got -1"),
        ({"temperature": NAN}, "temperature must be a finite number >= 0, got nan"),
        ({"top_k": 0}, "top_k must be an integer >= 1 or None, got 0"),
        ({"top_k": 2.0}, "top_k must be an integer >= 1 or None, got 2.0"),
        ({"top_k": 9}, "top_k must be at most the 8 codes, got 9"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\] or None, got 0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\] or None, got 1.1"),
        ({"min_p": -0.1}, r"min_p must be in \(0, 1\] or None, got -0.1"),
        ({"temperature": torch.tensor(2.0)}, "temperature must be a finite number >= 0, got ten"),
        ({"guidance": INF}, "guidance must be a finite number, got inf"),
        ({"guidance": torch.tensor(2.0)}, "guidance must be a finite number, got tensor"),
        ({"uncond_logits": torch.zeros(2, 7)}, "uncond_logits must be like logits, float32"),
        ({"seeds": torch.zeros(3, dtype=torch.int64)}, "seeds must be int64, one for each of the"),
        ({"cells": torch.zeros(2)}, "cells must be int64, one for each of the 2 rows"),
        ({"logits": torch.zeros(8)}, r"logits must be \(B, V\) float32, got \(8,\)"),
        ({"logits": torch.zeros(2, 0)}, r"logits must be \(B, V\) with V >= 1"),
        (
            {"logits": torch.zeros(2, 1).expand(2, 2**22 + 1)},
            r"logits must be \(B, V\) with V at most 4194304, got \(2, 4194305\)",
        ),
        (
            {"forbidden": torch.zeros(8, dtype=torch.int64)},
            r"forbidden must be bool, \(V,\) or \(B, V\) like logits \(2, 8\), got \(8,\) of",
        ),
        ({"forbidden": torch.zeros(7, dtype=torch.bool)}, r"forbidden must be .* got \(7,\)"),
        ({"forbidden": torch.zeros(2, 1, dtype=torch.bool)}, r"forbidden must .* got \(2, 1\)"),
        (
            {"forbidden": torch.zeros(8, dtype=torch.bool, device="meta")},
            "forbidden must be on cpu like logits, got meta",
        ),
    ],
)
def test_bad_input_is_named(options: dict, message: str) -> None:
    zeros = torch.zeros(2, dtype=torch.int64)
    arguments = {"logits": torch.zeros(2, 8), "seeds": zeros, "cells": zeros} | options
    with pytest.raises((RuntimeError, ValueError), match=message):
        ops.sample_logits(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logits": torch.zeros(2, 8).numpy()}, "logits must be a torch.Tensor, got numpy.ndarray"),
        ({"logits": None}, "logits must be a torch.Tensor, got None"),
        ({"seeds": [1, 2]}, "seeds must be a torch.Tensor, got builtins.list"),
        ({"cells": None}, "cells must be a torch.Tensor, got None"),
        ({"uncond_logits": [[0.0]]}, "uncond_logits must be a torch.Tensor, got builtins.list"),
        ({"forbidden": [True] * 8}, "forbidden must be a torch.Tensor, got builtins.list"),
    ],
)
def test_what_is_no_tensor_is_named(options: dict, message: str) -> None:
    zeros = torch.zeros(2, dtype=torch.int64)
    arguments = {"logits": torch.zeros(2, 8), "seeds": zeros, "cells": zeros} | options
    with pytest.raises(TypeError, match=message):
        ops.sample_logits(**arguments)


def test_log_probabilities_have_no_gradients() -> None:
    logits = torch.zeros(2, 8, requires_grad=True)
    _, logprobs = ops.sample_logits(logits, *seeds_and_cells(2))
    assert not logprobs.requires_grad


def test_the_op_itself_refuses_more_codes_than_its_sums_hold() -> None:
    logits = torch.zeros(1, 1).expand(1, 2**22 + 1)
    arguments = (*seeds_and_cells(1), None, 1.0, 1.0, 0, 1.0, -torch.inf)
    with pytest.raises(RuntimeError, match=r"^logits must be .* with V at most 4194304"):
        torch.ops.vqgan_fast.sample_logits(logits, *arguments)
