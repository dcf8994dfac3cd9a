"""`vqgan-fast evaluate`: its table, its file, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import torch_fidelity
from PIL import Image
from sample_pictures import write_pictures
from small_features import SMALL_FEATURES
from tiny_vqgan import CONFIG, tiny_vqgan

from vqgan_fast import GPT, VQGAN, LatentTransformer, cli
from vqgan_fast import evaluate as measures_of
from vqgan_fast.data import to_model_range
from vqgan_fast.evaluate import Pictures, nll_per_code
from vqgan_fast.models.conditions import SOSCondition


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    gpt = GPT(16, 257, n_layer=1, n_head=2, n_embd=8)
    LatentTransformer(tiny_vqgan(resolution=16), SOSCondition(), gpt).save_pretrained(
        folder / "model"
    )
    return folder


def evaluate(*argv: object) -> int:
    return cli.main(["evaluate", *map(str, argv), "--device", "cpu"])


def test_a_table_and_a_file(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "photos", 3)
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    kept, file = tmp_path / "kept", tmp_path / "out" / "figures.json"
    metrics = ("--metrics", "psnr", "nll", "lpips", "--lpips-weights", "random", "--size", "32")
    outputs = ("--json", file, "--keep-pictures", kept)
    assert evaluate(run_folder, tmp_path / "photos", *metrics, *outputs) == 0
    printed = capsys.readouterr()
    written = json.loads(file.read_text())
    figures = written["figures"]
    assert set(figures) == {
        "pictures", "psnr", "lpips", "codes", "codebook_usage", "perplexity", "nll"
    }  # fmt: skip
    for name in figures:
        assert name in printed.out
    assert "random features" in printed.out
    assert "broken.png" in printed.err
    assert written["about"]["skipped"] == [str(tmp_path / "photos" / "broken.png")]
    assert figures["pictures"] == 3
    # The likelihood is that of the codes of the crops.
    model = LatentTransformer.from_pretrained(run_folder / "model")
    files = sorted((tmp_path / "photos").glob("picture*"))
    images = torch.cat(list(Pictures(files, 32)))
    codes = model.encode_to_codes(images / 127.5 - 1)
    assert figures["nll"] == pytest.approx(nll_per_code(model, codes), rel=1e-5)
    assert len(list((kept / "real").glob("*.png"))) == 3
    with Image.open(kept / "reconstructions" / "000002.png") as picture:
        assert picture.size == (32, 32)
    # Nothing is overwritten unasked.
    assert evaluate(run_folder, tmp_path / "photos", "--json", file) == cli.USER_ERROR
    assert "figures.json exists already" in capsys.readouterr().err
    assert evaluate(run_folder, tmp_path / "photos", "--json", file, "--force") == 0


def test_the_likelihood_is_of_codes_that_are_not_drawn_and_of_so_many_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(**{**CONFIG, "resolution": 16}, quantizer="gumbel").eval()
    gpt = GPT(16, 64, n_layer=1, n_head=2, n_embd=8)
    for parameter in gpt.parameters():  # logits that depend on every token
        torch.nn.init.normal_(parameter, std=0.5)
    model = LatentTransformer(vqgan, SOSCondition(), gpt.eval())
    model.save_pretrained(tmp_path / "run" / "model")
    write_pictures(tmp_path / "photos", 5)
    seen = []
    monkeypatch.setattr(
        measures_of, "nll_per_code", lambda *args: seen.append(args[2]) or nll_per_code(*args)
    )
    file = tmp_path / "figures.json"
    arguments = ("--metrics", "nll", "--batch", 2, "--json", file)
    assert evaluate(tmp_path / "run", tmp_path / "photos", *arguments) == 0
    images = torch.cat(list(Pictures(sorted((tmp_path / "photos").iterdir()), 16)))
    expected = nll_per_code(model, model.encode_to_codes(to_model_range(images)))
    assert json.loads(file.read_text())["figures"]["nll"] == pytest.approx(expected, rel=1e-5)
    assert seen == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "0"), "--size must be at least 1, got 0"),
        (("--size", "33"), "--size must be a multiple of the downsampling factor 2, got 33"),
        (("--metrics", "lpips", "--size", "8"), "at least 16 for --metrics lpips, got 8"),
        (("--metrics", "fid"), "need --samples"),
        (("--samples", "drawn"), "none of which was asked for"),
        (("--maps", "maps"), "--maps is for --metrics nll, or for a VQGAN of maps"),
        (("--maps", "maps", "--metrics", "nll"), "has no condition"),
        (("--metrics", "rfid", "--limit", "1"), "FID needs at least 2 pictures, got 1 in"),
        (("--metrics", "is", "--samples", "PHOTOS"), "score needs at least 10 pictures, got 2 in"),
        (("--metrics", "rfid"), "InceptionV3 of FID is not at"),
        (("--metrics", "rfid", "--inception-weights", "nowhere.pth"), "nowhere.pth"),
    ],
)
def test_refusals(
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    photos = tmp_path / "photos"
    write_pictures(photos, 2)
    arguments = [photos if argument == "PHOTOS" else argument for argument in arguments]
    assert evaluate(run_folder, photos, *arguments) == cli.USER_ERROR
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("metric", ["rfid", "fid", "is"])
def test_without_torch_fidelity_the_extra_is_named_before_the_work(
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    metric: str,
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    write_pictures(tmp_path, 10)
    samples = () if metric == "rfid" else ("--samples", tmp_path)
    assert evaluate(run_folder, tmp_path, "--metrics", metric, *samples) == cli.USER_ERROR
    told = capsys.readouterr().err
    assert "pip install 'vqgan_fast[train,evaluate]'" in told
    assert "measuring" not in told


def test_distances_are_those_of_the_library_called_by_hand_on_the_pictures_that_are_kept(
    run_folder: Path, tmp_path: Path, small_distances: None
) -> None:
    write_pictures(tmp_path / "photos", 6)
    write_pictures(tmp_path / "drawn", 12)
    kept, file = tmp_path / "kept", tmp_path / "figures.json"
    arguments = ("--metrics", "rfid", "fid", "is", "--samples", tmp_path / "drawn", "--size", 32)
    outputs = ("--json", file, "--keep-pictures", kept)
    assert evaluate(run_folder, tmp_path / "photos", *arguments, *outputs) == 0
    figures = json.loads(file.read_text())["figures"]
    for name, folder in (("rfid", "reconstructions"), ("fid", "samples")):
        by_hand = torch_fidelity.calculate_metrics(
            input1=str(kept / folder), input2=str(kept / "real"), fid=True, isc=True, cuda=False,
            cache=False, feature_extractor=SMALL_FEATURES, save_cpu_ram=True, verbose=False,
        )  # fmt: skip
        assert figures[name] == pytest.approx(by_hand["frechet_inception_distance"], rel=1e-9)
    assert figures["inception_score"] == pytest.approx(by_hand["inception_score_mean"], rel=1e-9)
    assert figures["rfid"] != figures["fid"]


def test_more_codes_than_the_transformer_has_positions_for(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path, 1)
    assert evaluate(run_folder, tmp_path, "--metrics", "nll", "--size", 36) == cli.USER_ERROR
    told = capsys.readouterr().err
    assert "pictures must have at most 257 codes" in told
    assert "got 18 x 18" in told
    assert "--size" in told


def test_the_likelihood_is_that_of_the_grid_that_the_transformer_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which may be another one than that of the VQGAN's crops."""
    gpt = GPT(16, 257, n_layer=1, n_head=2, n_embd=8)
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    vqgan = tiny_vqgan(resolution=16)
    model = LatentTransformer(vqgan, SOSCondition(), gpt.eval(), grid=(16, 16))
    model.save_pretrained(tmp_path / "run" / "model")
    write_pictures(tmp_path / "photos", 3)
    figures = {}
    for name, size in (("trained", ()), ("smaller", ("--size", 16))):
        file = tmp_path / name
        argv = (tmp_path / "run", tmp_path / "photos", "--metrics", "nll", *size, "--json", file)
        assert evaluate(*argv) == 0
        told = capsys.readouterr().err
        other = "nll is that of 8 x 8 codes, crops of 16 x 16 pixels; the transformer was trained"
        assert (f"{other} on 16 x 16 codes" in told) == bool(size)
        figures[name] = json.loads(file.read_text())
    for name, side in (("trained", 32), ("smaller", 16)):
        images = torch.cat(list(Pictures(sorted((tmp_path / "photos").iterdir()), side)))
        expected = nll_per_code(model, model.encode_to_codes(to_model_range(images)))
        assert figures[name]["figures"]["nll"] == pytest.approx(expected, rel=1e-5)
        about = figures[name]["about"]
        assert (about["size"], about["nll_size"]) == (16, side)
