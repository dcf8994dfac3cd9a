"""`vqgan-fast sample` with a model that is conditioned on maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from condition_runs import CODES, depth_maps, depth_tokens, encoded_sizes, run_sample, save_model
from PIL import Image
from tiny_vqgan import tiny_vqgan

from vqgan_fast import sampling
from vqgan_fast.cli import main
from vqgan_fast.data import Edges, to_model_range
from vqgan_fast.data.crops import Box
from vqgan_fast.data.stream import View, channels_first
from vqgan_fast.models import (
    CodesCondition,
    CombinedCondition,
    CoordinateCondition,
    LabelCondition,
    LatentTransformer,
)
from vqgan_fast.sampling import sample, sample_best


def test_each_map_gets_its_picture_and_a_page_shows_both(depth_run, folders, tmp_path):
    files = sorted(folders[1].iterdir())[:2]
    run_sample(depth_run, "--condition", *files, "--number", 3, "--output", tmp_path)
    model = LatentTransformer.from_pretrained(depth_run / "model")
    tokens = depth_tokens(depth_run, files)[[0, 1, 0]]
    expected = sample(model, tokens, (4, 4), seeds=[0, 1, 2])
    for number, image in enumerate(expected):
        picture = np.array(Image.open(tmp_path / f"seed_{number:06d}.png"))
        assert np.abs(picture / 127.5 - 1 - image.movedim(0, -1).numpy()).max() < 0.01
    page = np.array(Image.open(tmp_path / "page.png"))
    assert page.shape[1] == 3 * 8 + 2 * 4  # maps above samples
    assert len(np.unique(page.reshape(-1, 3), axis=0)) > 50


def test_a_wider_map_is_drawn_by_a_window_that_slides_over_both(depth_run, tmp_path):
    file = tmp_path / "wide.png"
    Image.fromarray(np.arange(8 * 20, dtype=np.uint8).reshape(8, 20)).save(file)
    run_sample(depth_run, "--condition", file, "--number", 1, "--greedy", "--output", tmp_path)
    model = LatentTransformer.from_pretrained(depth_run / "model")
    expected = sample(model, depth_tokens(depth_run, [file]), (4, 10), greedy=True)[0]
    picture = np.array(Image.open(tmp_path / "seed_000000.png"))
    assert picture.shape == (8, 20, 3)
    assert np.abs(picture / 127.5 - 1 - expected.movedim(0, -1).numpy()).max() < 0.01


def test_guidance_needs_no_token_of_a_model_that_was_trained_for_it(depth_run, folders, tmp_path):
    file = next(folders[1].iterdir())
    for name, guidance in (("plain", 1), ("guided", 5)):
        output = tmp_path / name
        run_sample(depth_run, "--condition", file, "--number", 1, "--guidance", guidance,
                   "--greedy", "--output", output)  # fmt: skip
    plain, guided = (
        np.array(Image.open(tmp_path / name / "seed_000000.png")) for name in ("plain", "guided")
    )
    assert (plain != guided).any()


def test_the_token_of_no_condition_stands_in_each_of_its_places(
    depth_run, combined_run, folders, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        sampling,
        "sample",
        lambda *given, **options: seen.append(options.get("uncond")) or sample(*given, **options),
    )
    maps, photo = sorted(folders[1].iterdir())[:2], sorted(folders[0].iterdir())[3]
    model = LatentTransformer.from_pretrained(depth_run / "model")
    token, common = model.null_token, ["--number", 1, "--guidance", 3, "--output"]
    run_sample(depth_run, "--condition", *maps, *common, tmp_path / "own")
    run_sample(depth_run, "--condition", *maps, "--uncond", token, *common, tmp_path / "told")
    own, told = (tmp_path / name / "seed_000000.png" for name in ("own", "told"))
    assert own.read_bytes() == told.read_bytes()
    assert torch.equal(seen[1], torch.full((1, 4, 4), token))
    run_sample(combined_run, "--cond", "owl", "--condition", *maps, "--condition", photo,
               "--uncond", 5, *common, tmp_path / "combined")  # fmt: skip
    assert [part.shape for part in seen[2]] == [(1, 4, 4), (1, 1), (1, 4, 4), (1, 4, 4)]
    assert all((part == 5).all() for part in seen[2])


def test_a_seed_has_its_condition_wherever_a_call_begins(depth_run, folders, tmp_path, monkeypatch):
    maps = sorted(folders[1].iterdir())[:3]
    for name, given in (("held_out", ["--held-out"]), ("files", ["--condition", *maps])):
        run_sample(depth_run, *given, "--number", 7, "--output", tmp_path / name)
        alone = tmp_path / f"{name}_alone"
        with monkeypatch.context() as patch:
            sizes = encoded_sizes(patch)
            for seed, number in ((4, 1), (5, 2)):
                seeds = ["--seed", seed, "--number", number]
                run_sample(depth_run, *given, *seeds, "--output", alone)
        assert sizes == [1, 1, 1]  # what is not drawn is not encoded
        for file in sorted(alone.glob("seed_*.png")):
            assert file.read_bytes() == (tmp_path / name / file.name).read_bytes()
        assert len(list(alone.glob("seed_*.png"))) == 3
        pages = [np.array(Image.open(tmp_path / f / "page.png")) for f in (name, f"{name}_alone")]
        whole, last = (page.shape[1] for page in pages)
        assert (pages[0][18:26, whole - 20 :] == pages[1][18:26, last - 20 :]).all()


def test_classes_by_name_and_coordinates_of_the_grid(tmp_path):
    save_model(tmp_path / "classes", LabelCondition(3, ["cat", "dog", "owl"]), 16)
    save_model(tmp_path / "places", CoordinateCondition(40, factor=2), 32)
    for name, arguments in (("a", ["--cond", "dog"]), ("b", ["--cond", 1]), ("c", ["--cond", 2])):
        run_sample(tmp_path / "classes", *arguments, "--number", 1, "--output", tmp_path / name)
    a, b, c = (np.array(Image.open(tmp_path / name / "seed_000000.png")) for name in "abc")
    assert (a == b).all()
    assert (a != c).any()
    run_sample(tmp_path / "places", "--grid", "4x9", "--number", 1, "--output", tmp_path / "wide")
    assert np.array(Image.open(tmp_path / "wide" / "seed_000000.png")).shape == (8, 18, 3)


@pytest.fixture(scope="module")
def combined_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conditioned on depth, class, place and edges, in this order."""
    run = tmp_path_factory.mktemp("runs") / "combined"
    parts = [
        CodesCondition(tiny_vqgan(CODES, 1), {"kind": "depth"}, "condition_0"),
        LabelCondition(3, ["cat", "dog", "owl"]),
        CoordinateCondition(10, factor=2),
        CodesCondition(tiny_vqgan(CODES), {"kind": "edges", "sigma": 0.5}, "condition_3"),
    ]
    save_model(run, CombinedCondition(parts), 1 + 3 * 16 + 16)
    return run


def test_combined_conditions_are_given_one_by_one(combined_run, folders, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        sampling,
        "sample",
        lambda *given, **options: seen.append(given) or sample(*given, **options),
    )
    maps, photo = sorted(folders[1].iterdir())[:2], sorted(folders[0].iterdir())[3]
    run_sample(combined_run, "--cond", "owl", "--condition", *maps, "--condition", photo,
               "--number", 3, "--output", tmp_path)  # fmt: skip
    model = LatentTransformer.from_pretrained(combined_run / "model")
    view = View(Box(0, 0, 8, 8), mirrored=False)
    edges = Edges(0.5).crop(0, np.array(Image.open(photo)), view)
    given = (
        torch.cat([depth_maps(maps)] * 2)[:3],
        torch.tensor([2, 2, 2]),
        torch.arange(64.0).view(1, 1, 8, 8).expand(3, 1, 8, 8) / 64,
        to_model_range(channels_first(edges)[None]).expand(3, 3, 8, 8),
    )
    ((_, tokens),) = seen
    expected = model.cond_stage_model(3, "cpu", given)
    assert all(map(torch.equal, tokens, expected))
    assert [part.shape for part in tokens] == [(3, 4, 4), (3, 1), (3, 4, 4), (3, 4, 4)]
    assert not torch.equal(tokens[0][0], tokens[0][1])
    page = np.array(Image.open(tmp_path / "page.png"))
    assert page.shape[0] == 3 * (8 + 18) + 2 * 4  # depth, edges, samples


def test_what_is_missing_of_a_combined_condition_is_named(
    combined_run, depth_run, folders, tmp_path, capsys
):
    files = sorted(folders[1].iterdir())
    one, two = ["--condition", files[0]], ["--condition", *files[:2]]
    for run, arguments, message in (
        (combined_run, ["--cond", 1], "must be given: the model wants depth and edges"),
        (combined_run, one, "--condition must be given 2 times, for depth and then edges, got 1"),
        (combined_run, one + one, "--cond must be given, the class to draw"),
        (
            combined_run,
            ["--cond", 1, *two, "--condition", *files[:3]],
            "as many maps of each kind, or one, got 2 of depth, 3 of edges",
        ),
        (depth_run, ["--cond", 1, *one], "--cond is for a class, this model is conditioned on dep"),
        (depth_run, one + one, "--condition must be given 1 times, for depth, got 2"),
        (depth_run, ["--held-out", "--cond", 1], "--held-out has its own conditions"),
        (depth_run, [*two, "--best-of", 4], "candidates of one condition, got 2"),
    ):
        assert main(["sample", *map(str, [run, *arguments, "--output", tmp_path / "x"])]) != 0
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_best_of_a_held_out_condition_stand_below_that_condition(depth_run, folders, tmp_path):
    run_sample(depth_run, "--held-out", "--best-of", 5, "--number", 2, "--output", tmp_path)
    page = np.array(Image.open(tmp_path / "page.png"))
    tokens = depth_tokens(depth_run, [sorted(folders[1].iterdir())[0]])
    first = depth_maps([sorted(folders[1].iterdir())[0]])
    model = LatentTransformer.from_pretrained(depth_run / "model")
    best = sample_best(model, tokens, (4, 4), candidates=5, keep=2, seeds=[0])
    drawn = np.array(Image.open(tmp_path / "best_001.png")) / 127.5 - 1
    assert np.abs(drawn - best.images[0, 0].movedim(0, -1).numpy()).max() < 0.01
    for left in (0, 8 + 4):
        shown = page[18 : 18 + 8, left : left + 8] / 127.5 - 1
        assert np.abs(shown - first[0, 0, :, :, None].numpy()).max() < 0.01


def test_bad_conditions_are_named(depth_run, folders, tmp_path, capsys):
    save_model(tmp_path / "classes", LabelCondition(3, ["cat", "dog", "owl"]), 16, null=False)
    save_model(tmp_path / "places", CoordinateCondition(40, factor=2), 32)
    file = sorted(folders[1].iterdir())[0]
    odd = tmp_path / "odd.png"
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(odd)
    for arguments, message in (
        (
            (depth_run, "--condition", odd),
            "odd.png gives a condition of 9 x 8 pixels, expected 8",
        ),
        ((depth_run, "--condition", file, "--grid", "4x6"), "0.png gives a condition of 8 x 8 pix"),
        ((depth_run, "--condition", tmp_path / "no.png"), "there is no file"),
        ((depth_run,), "--condition FILE or --held-out must be given"),
        ((tmp_path / "classes",), "--cond must be given, the class to draw"),
        ((tmp_path / "classes", "--cond", "cow"), "got cow; the classes are cat, dog, owl\n"),
        ((tmp_path / "classes", "--cond=--3"), "token or the name of a class, got --3; the cl"),
        ((tmp_path / "classes", "--cond", 3), "--cond must be a class in [0, 3), got 3"),
        ((tmp_path / "classes", "--condition", file), "this one is on label"),
        (
            (tmp_path / "places", "--cond", 3, "--grid", "4x4"),
            "--cond is for a class, this model is conditioned on coordinates",
        ),
        (
            (depth_run, "--held-out", "--grid", "4x6"),
            "--held-out conditions are of 4 x 4 codes, the picture is to be of 4 x 6",
        ),
        ((tmp_path / "classes", "--cond", "cat", "--guidance", "2"), "uncond must be given"),
    ):
        assert main(["sample", *map(str, arguments), "--output", str(tmp_path / "x")]) != 0
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_completion_by_boxes_and_an_empty_mask(depth_run, folders, tmp_path, capsys):
    save_model(tmp_path / "classes", LabelCondition(3), 16)
    photo = sorted(folders[0].iterdir())[0]
    common = (tmp_path / "classes", "--cond", 1, "--number", 1, "--complete", photo)
    model = LatentTransformer.from_pretrained(tmp_path / "classes" / "model")
    image = to_model_range(channels_first(np.array(Image.open(photo)))[None])
    codes = model.encode_to_codes(image)
    for name, box, drawn in (("draw", "2,4,8,6", np.s_[2:3, 1:]), ("keep", "0,0,8,4", np.s_[2:])):
        run_sample(*common, f"--{name}-box", box, "--output", tmp_path / name)
        known = codes.clone()
        known[(slice(None), *(drawn if isinstance(drawn, tuple) else (drawn,)))] = -1
        expected = sample(model, torch.tensor([[1]]), (4, 4), seeds=[0], known=known)[0]
        picture = np.array(Image.open(tmp_path / name / "seed_000000.png"))
        assert np.abs(picture / 127.5 - 1 - expected.movedim(0, -1).numpy()).max() < 0.01
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    for arguments, message in (
        (("--mask", tmp_path / "black.png"), "black.png is empty: no pixel is white"),
        (("--keep-box", "0,0,8,8"), "the box leaves nothing, so that there is nothing to draw"),
        (("--draw-box", "0,0,9,8"), "the box must lie in"),
    ):
        arguments = [*common, *arguments, "--output", tmp_path / "x"]
        assert main(["sample", *map(str, arguments)]) != 0
        assert message in capsys.readouterr().err
