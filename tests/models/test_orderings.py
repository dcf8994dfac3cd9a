"""Orders of codes: permutations, the reference's, and what training and sampling make of them."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vqgan_fast.models import GPT
from vqgan_fast.models.code_logits import code_logits
from vqgan_fast.models.orderings import ORDERINGS, ordered_cells, ranks_of_cells

PEERS = {
    "row_major": None,
    "subsample": "Subsample",
    "z_curve": "ZCurve",
    "spiral_out": "SpiralOut",
    "spiral_in": "SpiralIn",
    "alternate": "AlternateParsing",
}


@pytest.mark.parametrize("name", ORDERINGS)
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (5, 5), (8, 8), (16, 16), (3, 7), (6, 2)])
def test_an_ordering_visits_each_cell_once_and_has_an_inverse(name, size):
    if "spiral" in name and size[0] != size[1]:
        with pytest.raises(ValueError, match="a spiral needs a square grid"):
            ordered_cells(name, *size)
        return
    cells, ranks = ordered_cells(name, *size), ranks_of_cells(name, *size)
    everything = torch.arange(size[0] * size[1])
    assert torch.equal(cells.sort().values, everything)
    assert torch.equal(cells[ranks], everything)
    assert torch.equal(ranks[cells], everything)


@pytest.mark.parametrize("size", [2, 4, 16])
@pytest.mark.parametrize("name", ORDERINGS)
def test_orderings_are_those_of_the_reference(name, size):
    permuter = importlib.import_module("taming.modules.transformer.permuter")
    codes = torch.arange(size * size)[None]
    peer = PEERS[name]
    expected = codes if peer is None else getattr(permuter, peer)(size, size)(codes)
    assert torch.equal(codes[:, ordered_cells(name, size, size)], expected)


def test_how_they_look():
    assert ordered_cells("spiral_in", 3, 3).tolist() == [0, 3, 6, 7, 8, 5, 2, 1, 4]
    assert ordered_cells("alternate", 2, 3).tolist() == [0, 1, 2, 5, 4, 3]
    assert ordered_cells("z_curve", 2, 4).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert ordered_cells("subsample", 4, 4)[:4].tolist() == [0, 2, 8, 10]


def test_an_unknown_ordering_is_refused():
    with pytest.raises(ValueError, match=r"ordering must be one of row_major, .*, got 'diagonal'"):
        GPT(8, 16, 1, 1, 8, ordering="diagonal")


@pytest.mark.parametrize("name", ORDERINGS)
def test_a_code_depends_on_those_before_it_in_the_order_and_on_no_others(name):
    """By perturbation: change one code, see whose logits move."""
    torch.manual_seed(0)
    gpt = GPT(12, 16, 1, 1, 16, ordering=name).double().eval()
    torch.nn.init.normal_(gpt.pos_emb)
    codes = torch.randint(12, (1, 4, 4))
    condition = torch.zeros(1, 1, dtype=torch.int64)
    before = code_logits(gpt, condition, codes)
    rank = ranks_of_cells(name, 4, 4)
    for cell in (0, 5, 15):
        changed = codes.clone()
        changed.view(-1)[cell] = (codes.view(-1)[cell] + 1) % 12
        moved = (code_logits(gpt, condition, changed) - before).abs().amax((0, 2)) > 1e-12
        assert torch.equal(moved, rank > rank[cell])


def test_logits_are_the_transformers_own_in_its_order():
    torch.manual_seed(0)
    gpt = GPT(12, 16, 1, 1, 16, ordering="z_curve").eval()
    codes = torch.randint(12, (2, 4, 4))
    condition = torch.full((2, 1), 3)
    cells = ordered_cells("z_curve", 4, 4)
    sequence = torch.cat([condition, codes.flatten(1)[:, cells]], 1)
    logits = code_logits(gpt, condition, codes)
    torch.testing.assert_close(logits[:, cells], gpt(sequence[:, :-1]))
    with pytest.raises(ValueError, match=r"codes must be \(B, h, w\)"):
        code_logits(gpt, condition, codes.flatten(1))


def test_one_mode_leaves_nothing_behind_for_another():
    """Of inference and of fake tensors, in which `plan` rehearses."""
    gpt = GPT(12, 16, 1, 1, 16, ordering="z_curve")
    condition, codes = torch.zeros(1, 1, dtype=torch.int64), torch.randint(12, (1, 4, 4))
    with torch.inference_mode():
        expected = code_logits(gpt, condition, codes)
    found = code_logits(gpt, condition, codes)
    found.sum().backward()
    for _ in range(2):
        with FakeTensorMode() as mode:
            fake = GPT(12, 16, 1, 1, 16, ordering="z_curve")
            logits = code_logits(fake, mode.from_tensor(condition), mode.from_tensor(codes))
            assert logits.shape == expected.shape
    assert torch.equal(code_logits(gpt, condition, codes), expected)


def test_orders_are_not_each_other():
    orders = {tuple(ordered_cells(name, 8, 8).tolist()) for name in ORDERINGS}
    assert len(orders) == len(ORDERINGS)
    inwards, outwards = (ORDERINGS[name](8, 8) for name in ("spiral_in", "spiral_out"))
    assert np.array_equal(inwards, outwards[::-1])
