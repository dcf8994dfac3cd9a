"""The native windowed transformer: what each cell sees, relative positions, its folder."""

from __future__ import annotations

import pytest
import torch

from vqgan_fast import WindowGPT
from vqgan_fast.models.window_gpt import rotate, rotation_angles, window_mask

REACH = 2


def small(**changes) -> WindowGPT:
    torch.manual_seed(0)
    arguments = {"vocab_size": 12, "n_layer": 1, "n_head": 2, "n_embd": 16, "reach": REACH}
    model = WindowGPT(**{**arguments, **changes}).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    return model


def grid(height: int, width: int) -> torch.Tensor:
    return torch.randint(12, (1, height, width), generator=torch.Generator().manual_seed(1))


def test_a_cell_sees_its_window_and_no_more():
    """One layer: the logits change if and only if an input that the cell attends changes."""
    model, codes, cond = small(), grid(6, 7), torch.zeros(1, 1, dtype=torch.int64)
    base = model(codes, cond)[0]
    for row in range(6):
        for column in range(6):  # the last column's code is no input
            other = codes.clone()
            other[0, row, column] = (other[0, row, column] + 1) % 12
            changed = (model(other, cond)[0] != base).any(-1).view(6, 7)
            # The code is the input of the cell to its right.
            i, j = row, column + 1
            for r in range(6):
                for c in range(7):
                    above = 1 <= r - i <= REACH and -REACH <= j - c < REACH
                    own = r == i and 0 <= c - j <= REACH
                    assert bool(changed[r, c]) == (above or own)


def test_the_mask_of_16_by_16_is_that_of_the_definition():
    mask = window_mask(16, 16, 8, "cpu").view(16, 16, 16, 16)
    for i, j in ((0, 0), (3, 0), (9, 5), (15, 15), (8, 8)):
        expected = torch.zeros(16, 16, dtype=torch.bool)
        expected[max(i - 8, 0) : i, max(j - 8, 0) : j + 8] = True
        expected[i, max(j - 8, 0) : j + 1] = True
        assert torch.equal(mask[i, j], expected)


def test_rotations_depend_on_differences_of_positions_only():
    q, k = torch.randn(2, 8, dtype=torch.float64)

    def product(at, other):
        turned = []
        for x, (row, column) in ((q, at), (k, other)):
            angles = rotation_angles(torch.tensor(row), torch.tensor(column), 8)
            turned.append(rotate(x, angles.cos(), angles.sin()))
        return turned[0] @ turned[1]

    near = product((3, 5), (1, 6))
    assert product((1003, 70), (1001, 71)) == pytest.approx(float(near))
    assert abs(product((3, 5), (1, 7)) - near) > 1e-3


def test_a_larger_grid_is_the_same_where_the_window_is():
    model, cond = small(), torch.zeros(1, 1, dtype=torch.int64)
    codes = grid(9, 11)
    whole = model(codes, cond).view(9, 11, -1)
    part = model(codes[:, 2:8, 3:10], cond).view(6, 7, -1)
    torch.testing.assert_close(part[REACH:, REACH + 1 : -REACH], whole[4:8, 6:8])


def test_conditions_of_a_picture_and_of_cells():
    model, codes = small(), grid(4, 5)
    one = torch.tensor([[7]])
    spread = torch.full((1, 4, 5), 7)
    torch.testing.assert_close(model(codes, one), model(codes, spread))
    assert not torch.equal(model(codes, one), model(codes, one + 1))


def test_save_and_load(tmp_path):
    model = small().float()
    model.save_pretrained(tmp_path)
    again = WindowGPT.from_pretrained(tmp_path)
    codes, cond = grid(3, 4), torch.zeros(1, 1, dtype=torch.int64)
    assert torch.equal(again(codes, cond), model(codes, cond))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_embd": 12}, r"n_embd must be a multiple of 4 n_head = 8 .* got 12"),
        ({"reach": 0}, "reach must be at least 1, got 0"),
        ({"embd_pdrop": "a"}, "embd_pdrop must be a finite number, got 'a'"),
        ({"attn_pdrop": 1.0}, r"attn_pdrop must lie in \[0, 1\), got 1.0"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(ValueError, match=message):
        small(**change)


@pytest.mark.parametrize(
    ("codes", "cond", "message"),
    [
        (grid(3, 4)[0], torch.zeros(1, 1).long(), r"codes must be \(B, h, w\)"),
        (grid(3, 4) + 12, torch.zeros(1, 1).long(), r"codes must lie in \[0, 12\)"),
        (grid(3, 4), torch.zeros(1, 2).long(), r"cond must be \(1, 1\) or \(1, 3, 4\) tokens"),
        (grid(3, 4), torch.full((1, 1), 12), r"cond must lie in \[0, 12\), got 12"),
    ],
)
def test_bad_inputs(codes, cond, message):
    with pytest.raises(ValueError, match=message):
        small()(codes, cond)


def test_what_is_no_tensor_is_named():
    model, cond = small(), torch.zeros(1, 1).long()
    with pytest.raises(TypeError, match=r"codes must be a torch\.Tensor, got builtins\.list"):
        model([[[1]]], cond)
    with pytest.raises(TypeError, match=r"cond must be a torch\.Tensor, got None"):
        model(grid(3, 4), None)
