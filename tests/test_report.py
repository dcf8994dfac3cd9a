"""Figures of merit against their definitions, sheets of pictures, and the page."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from vqgan_fast.report.curves import draw_curves, read_metrics
from vqgan_fast.report.measures import (
    code_counts,
    mean_colours,
    mean_psnr,
    mean_squared_error,
    psnr,
    unigram_cross_entropy,
)
from vqgan_fast.report.page import Figure, Section, page
from vqgan_fast.report.pictures import GAP, LABEL_HEIGHT, comparison, picture_grid, to_picture


def test_psnr_is_that_of_scikit_image() -> None:
    generator = torch.Generator().manual_seed(0)
    x, x_hat = torch.rand(2, 2, 3, 8, 8, generator=generator) * 2 - 1
    expected = peak_signal_noise_ratio((x.numpy() + 1) / 2, (x_hat.numpy() + 1) / 2, data_range=1)
    assert psnr(mean_squared_error(x, x_hat)) == pytest.approx(expected, rel=1e-6)
    assert psnr(mean_squared_error(x, x)) == math.inf


def test_mean_psnr_takes_each_image_on_its_own() -> None:
    x = torch.zeros(3, 1, 2, 2)
    x_hat = x.clone()
    x_hat[1], x_hat[2] = 0.2, 0.02
    assert mean_psnr(x, x_hat) == pytest.approx((100 + 20 + 40) / 3)


def test_error_counts_values_that_can_be_shown() -> None:
    x = torch.ones(1, 3, 2, 2)
    assert mean_squared_error(x, 5 * x) == 0
    assert mean_squared_error(x, -5 * x) == 1


def test_mean_colours_paint_each_image_on_its_own() -> None:
    x = torch.arange(2 * 3 * 4, dtype=torch.float32).view(2, 3, 2, 2)
    painted = mean_colours(x)
    assert painted.shape == x.shape
    assert painted[1, 2, 0, 1] == x[1, 2].mean()
    assert (painted[0, 0] == x[0, 0].mean()).all()


def test_unigram_cross_entropy_adds_one_to_every_count() -> None:
    counts = torch.tensor([3, 0, 1, 0])
    codes = torch.tensor([[0, 0], [1, 2]])
    expected = -(2 * math.log(4 / 8) + math.log(1 / 8) + math.log(2 / 8)) / 4
    assert unigram_cross_entropy(codes, counts) == pytest.approx(expected)


def test_code_counts() -> None:
    assert code_counts(torch.tensor([[0, 2], [2, 2]]), 4).tolist() == [1, 0, 3, 0]


def test_to_picture_clamps_and_rounds() -> None:
    image = torch.tensor([-2.0, -1.0, 0.0, 0.999, 7.0]).expand(3, 1, -1)
    assert np.asarray(to_picture(image))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert to_picture(image[:1], scale=3).size == (15, 3)


def test_picture_grid_places_images_row_by_row() -> None:
    images = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(-1, 3, 6, 8)
    sheet = np.asarray(picture_grid(images, columns=3))
    assert sheet.shape == (2 * 6 + GAP, 3 * 8 + 2 * GAP, 3)
    assert sheet[0, 0, 0] == 0
    assert sheet[6 + GAP, 8 + GAP, 0] == 255  # the fifth: second row, second place
    assert (sheet[6 : 6 + GAP] == 255).all()
    assert picture_grid(images[:4]).size == (2 * 8 + GAP, 2 * 6 + GAP)


def test_comparison_repeats_its_rows_of_columns() -> None:
    images = torch.zeros(5, 3, 4, 4)
    sheet = comparison([("above", images), ("below", -images)], columns=3)
    assert sheet.size == (3 * 4 + 2 * GAP, 4 * (4 + LABEL_HEIGHT) + 3 * GAP)


def test_curves_are_drawn_from_what_training_wrote(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    entries = [{"step": step, "rec_loss": 1 / step, "val_psnr": 15 + step} for step in (1, 2, 3)]
    metrics.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert read_metrics(metrics) == entries
    drawn = {}
    for name, unigram in (("low", 1.0), ("high", 3.0)):
        path = tmp_path / f"{name}.png"
        draw_curves(
            entries,
            [{"step": 1, "nll": 2}],
            path,
            mean_colour_psnr=16.0,
            unigram=unigram,
            gan_start=2,
        )
        with Image.open(path) as picture:
            drawn[name] = np.array(picture)
    assert drawn["low"].shape == drawn["high"].shape
    assert (drawn["low"] != drawn["high"]).any()


def test_page_escapes_what_it_is_given() -> None:
    text = page(
        "<b>",
        "lead & more",
        "",
        [Figure("1 < 2", 'said "so"')],
        [Section("<i>", "x < y", "a&b.png", [("n<", "v>")], "run <this>")],
    )
    for raw in ("<b>&", "<i>", "x < y", "run <this>", "n<"):
        assert raw not in text
    for escaped in (
        "&lt;b&gt;",
        "lead &amp; more",
        "1 &lt; 2",
        'src="a&amp;b.png"',
        "&lt;this&gt;",
    ):
        assert escaped in text
    assert 'class="note"' not in text
    assert 'class="note"' in page("t", "l", "mind this", [], [])
