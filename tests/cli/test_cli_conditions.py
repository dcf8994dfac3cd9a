"""`vqgan-fast sample` and `evaluate` with a model that is conditioned on maps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vqgan import tiny_vqgan

from vqgan_fast import sampling
from vqgan_fast.cli import main
from vqgan_fast.data import Depth, Edges, to_model_range
from vqgan_fast.data.crops import Box
from vqgan_fast.data.stream import View, channels_first
from vqgan_fast.models import (
    GPT,
    VQGAN,
    CodesCondition,
    CombinedCondition,
    CoordinateCondition,
    LabelCondition,
    LatentTransformer,
)
from vqgan_fast.sampling import sample, sample_best
from vqgan_fast.train import build_config, load_config, save_config

CODES = 12  # of a window of 4 x 4 codes, 8 x 8 pixels


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five pictures of 8 x 8 pixels, and their depth."""
    root = tmp_path_factory.mktemp("depth")
    generator = np.random.default_rng(0)
    for number in range(5):
        for place, shape in (("photos", (8, 8, 3)), ("maps", (8, 8))):
            (root / place).mkdir(exist_ok=True)
            pixels = generator.integers(256, size=shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / place / f"{number}.png")
    return root / "photos", root / "maps"


def save_model(folder: Path, condition: object, length: int, null: bool = True) -> None:
    vocab_size = max(CODES, condition.vocab_size) + null
    torch.manual_seed(0)
    gpt = GPT(vocab_size, length, n_layer=1, n_head=1, n_embd=16)
    for parameter in gpt.parameters():  # logits that depend on every token
        torch.nn.init.normal_(parameter, std=0.5)
    null_token = vocab_size - 1 if null else None
    vqgan = tiny_vqgan(CODES, resolution=16)  # at which SSIM can be measured
    model = LatentTransformer(vqgan, condition, gpt, null_token=null_token)
    model.save_pretrained(folder / "model")


@pytest.fixture(scope="module")
def depth_run(tmp_path_factory: pytest.TempPathFactory, folders: tuple[Path, Path]) -> Path:
    run = tmp_path_factory.mktemp("runs") / "depth"
    save_model(run, CodesCondition(tiny_vqgan(CODES, 1), {"kind": "depth"}), 32)
    photos, maps = map(str, folders)
    config = build_config(
        {
            "stage": "transformer", "run_dir": str(run), "first_stage": str(run),
            "data": {"train": photos, "validation": photos, "size": 8, "resize": None},
            "condition": {
                "kind": "depth", "vqgan": str(run), "folder": maps, "validation_folder": maps,
            },
        }
    )  # fmt: skip
    save_config(config, run / "config.yaml")
    return run


def depth_maps(files: list[Path]) -> torch.Tensor:
    kind = Depth(files)
    with Image.open(files[0]) as picture:
        size = picture.size
    view, shape = View(Box(0, 0, *size), mirrored=False), np.empty((size[1], size[0], 3))
    maps = torch.stack([channels_first(kind.crop(i, shape, view)) for i in range(len(files))])
    return kind.to_model(maps)


def depth_tokens(run: Path, files: list[Path]) -> torch.Tensor:
    model = LatentTransformer.from_pretrained(run / "model")
    return model.cond_stage_model(len(files), "cpu", depth_maps(files))


def run_sample(*arguments: object) -> None:
    assert main(["sample", *map(str, arguments)]) == 0


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


def test_held_out_conditions_and_their_likelihood(depth_run, folders, tmp_path, capsys):
    run_sample(depth_run, "--held-out", "--number", 5, "--output", tmp_path / "drawn")
    page = np.array(Image.open(tmp_path / "drawn" / "page.png"))
    assert page.shape[0] == 3 * (8 + 18) + 2 * 4  # map, picture, sample
    figures = tmp_path / "figures.json"
    photos, maps = folders
    arguments = ["--maps", maps, "--metrics", "nll", "--json", figures]
    assert main(["evaluate", str(depth_run), str(photos), *map(str, arguments)]) == 0
    told = json.loads(figures.read_text())["figures"]
    model = LatentTransformer.from_pretrained(depth_run / "model")
    files = sorted(photos.iterdir())
    images = torch.stack([channels_first(np.array(Image.open(file))) for file in files])
    codes = model.encode_to_codes(to_model_range(images))
    tokens = depth_tokens(depth_run, sorted(maps.iterdir()))
    sequence = torch.cat([tokens.flatten(1), codes.flatten(1)], dim=1)
    with torch.no_grad():
        logits = model.transformer(sequence[:, :-1])[:, 15:]
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), codes.flatten())
    assert told["nll"] == pytest.approx(float(nll), rel=1e-5)
    assert told["nll_crops"] == 5
    two = ["--maps", str(maps), str(maps), "--metrics", "nll"]
    assert main(["evaluate", str(depth_run), str(photos), *two]) != 0
    told_of_two = capsys.readouterr().err
    assert "--maps must be 1 folders, the run is conditioned on depth, got 2" in told_of_two
    assert abs(told["nll_shuffled"] - told["nll"]) > 1e-3


def test_likelihood_is_that_of_all_crops_of_the_pictures_so_many_at_a_time(
    depth_run, folders, tmp_path, monkeypatch
):
    """Whatever the run has held out of its own pictures."""
    run, (photos, maps) = tmp_path / "run", folders
    shutil.copytree(depth_run / "model", run / "model")
    config = load_config(depth_run / "config.yaml")
    config.data.validation_crops, config.data.validation_region = 2, [0.5, 0.0, 1.0, 1.0]
    save_config(config, run / "config.yaml")
    sizes = encoded_sizes(monkeypatch)
    arguments = ["--maps", maps, "--metrics", "nll", "--json", tmp_path / "figures", "--batch", 2]
    assert main(["evaluate", str(run), str(photos), *map(str, arguments)]) == 0
    assert json.loads((tmp_path / "figures").read_text())["figures"]["nll_crops"] == 5
    assert sizes == [2, 2, 1] * 2  # maps, pictures


def test_likelihood_of_crops_of_another_size(depth_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(depth_run / "model", run / "model")
    config = load_config(depth_run / "config.yaml")
    config.data.resize = 8
    save_config(config, run / "config.yaml")
    for place, mode in (("photos", "RGB"), ("maps", "L")):
        (tmp_path / place).mkdir()
        Image.new(mode, (16, 16)).save(tmp_path / place / "a.png")
    places = [str(tmp_path / "photos"), "--maps", str(tmp_path / "maps")]
    arguments = ["evaluate", str(depth_run), *places, "--metrics", "nll"]
    assert main(arguments) == 0
    assert "nll_crops       4" in capsys.readouterr().out
    assert main([*arguments, "--size", "16"]) != 0
    assert "at most 16 codes, what the transformer was trained on, got 8 x 8" in (
        capsys.readouterr().err
    )
    # Told before the reconstructions are measured; pictures are resized for crops of that size.
    arguments = ["evaluate", str(run), *places, "--metrics", "psnr", "nll", "--size", "16"]
    assert main(arguments) != 0
    told = capsys.readouterr().err
    assert "got 8 x 8" in told and "measuring" not in told


def encoded_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures or maps are encoded at once, call by call."""
    sizes, encode = [], VQGAN.encode_indices
    monkeypatch.setattr(
        VQGAN, "encode_indices", lambda self, x: sizes.append(len(x)) or encode(self, x)
    )
    return sizes


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


def test_a_vqgan_of_maps_is_measured_on_maps(folders, tmp_path, capsys):
    photos, maps = folders
    vqgan = tiny_vqgan(CODES, 1)
    vqgan.save_pretrained(tmp_path / "run" / "vqgan")
    config = build_config(
        {
            "run_dir": str(tmp_path / "run"),
            "model": {"in_channels": 1, "out_ch": 1, "ch_mult": [1, 1]},
            "data": {
                "train": str(photos), "size": 8, "resize": None,
                "maps": {"kind": "depth", "folder": str(maps)},
            },
        }
    )  # fmt: skip
    # As on another machine, where it was trained from shards.
    config.data.train, config.data.shards = None, "somewhere/else-{0..9}.tar"
    config.data.maps.folder = "somewhere/else_depth-{0..9}.tar"
    save_config(config, tmp_path / "run" / "config.yaml")
    given = ["evaluate", tmp_path / "run", photos]
    figures = tmp_path / "figures.json"
    arguments = [*given, "--maps", maps, "--limit", 3, "--json", figures]
    assert main([str(argument) for argument in arguments]) == 0
    told = json.loads(figures.read_text())["figures"]
    x = depth_maps(sorted(maps.iterdir())[:3])
    with torch.no_grad():
        error = (vqgan(x)[0].clamp(-1, 1) - x).square().mean((1, 2, 3)) / 4
    assert told["maps"] == 3
    assert told["psnr"] == pytest.approx(float(-10 * error.log10().mean()), rel=1e-4)
    for more, message in (
        ([], "--maps must be 1 folders for depth maps, got 0"),
        (["--maps", maps, "--metrics", "lpips"], "--metrics are those of pictures"),
        (["--maps", tmp_path / "no"], "does not exist"),
    ):
        assert main([str(argument) for argument in (*given, *more)]) != 0
        assert message in capsys.readouterr().err


def test_evaluation_elsewhere_and_of_the_first_pictures(depth_run, folders, tmp_path, capsys):
    photos, maps = map(str, folders)
    run = tmp_path / "moved"
    shutil.copytree(depth_run, run)
    text = (run / "config.yaml").read_text()
    text = text.replace(photos, "no/photos").replace(f"validation_folder: {maps}", "")
    (run / "config.yaml").write_text(text)
    arguments = ["evaluate", str(run), photos, "--metrics", "nll", "--limit", "2"]
    assert main([*arguments, "--maps", maps]) == 0
    assert "nll_crops       2" in capsys.readouterr().out
    assert main(arguments) != 0
    assert "--maps must be given" in capsys.readouterr().err


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
        ((tmp_path / "classes", "--cond", "cow"), "name of a class, got cow; the classes are cat"),
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
