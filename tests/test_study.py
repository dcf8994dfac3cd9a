"""`vqgan-fast study` at the smallest size: every comparison, gone on with, measured, written up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from sample_pictures import write_pictures

from vqgan_fast import cli
from vqgan_fast.models import GPT, PixelSNAIL
from vqgan_fast.study import run as study
from vqgan_fast.study.measure import elapsed, nll_at, sharpness
from vqgan_fast.study.plan import Pictures, load_plan
from vqgan_fast.study.report import _factors
from vqgan_fast.train import ConfigError, load_config

TINY = """
vqgan:
  device: cpu
  model: {codebook_size: 16, embed_dim: 4, ch: 32, num_res_blocks: 1, attn_resolutions: [],
          z_channels: 8, ch_mult: [1, 1], resolution: 24}
  loss: {disc_ndf: 8, disc_num_layers: 1, disc_start: 1, perceptual_weight: 0.0}
  data: {size: 24, resize: null, batch_size: 2, validation_crops: 2, cache: true,
         train_region: [0.0, 0.0, 0.5, 1.0], validation_region: [0.5, 0.0, 1.0, 1.0]}
  optim: {steps: 2, learning_rate: 1.0e-3}
  log: &log {every: 1, checkpoint_every: 100, tensorboard: false, progress: false}
transformer:
  device: cpu
  gpt: {n_layer: 1, n_head: 2, n_embd: 16}
  data: {batch_size: 2, validation_crops: 2}
  optim: {steps: 3, learning_rate: 1.0e-3}
  log: *log
crops_per_picture: 2
first_stages:
  f1: {colours: 8, data: {size: 12}}
  f2:
  f2_two_levels: {model: {quantizer: hierarchical, quantizer_options: {channels: 8}}}
  f2_vqvae: {loss: {pixel_loss: mse, disc_factor: 0.0}}
priors:
  f1_gpt: {first_stage: f1}
  f2_gpt: {first_stage: f2}
  f2_pixel_snail: {first_stage: f2, transformer: pixel_snail}
  f2_spiral_in: {first_stage: f2, gpt: {ordering: spiral_in}, log: {checkpoint_every: 2}}
comparisons:
  priors: [f2_gpt, f2_pixel_snail]
  factors: [f1_gpt, f2_gpt]
  losses: [f2_vqvae, f2]
  hierarchies: [f2, f2_two_levels]
  orderings: [f2_gpt, f2_spiral_in]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pictures", 2, width=60, height=30)
    return tmp_path / "pictures"


def test_one_command_trains_measures_and_writes_the_page(
    config: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(study, "_perceptual", lambda: (None, "none"))  # it looks for a network
    output, page = tmp_path / "out", tmp_path / "docs" / "study.md"
    argv = ["study", "--config", config, "--data", pictures, "--output", output, "--page", page]
    assert cli.main([str(argument) for argument in argv]) == 0
    results = json.loads((output / "study.json").read_text())
    assert results["priors"]["f2_gpt"]["steps"] == 3
    assert [point["step"] for point in results["priors"]["f2_gpt"]["curve"]] == [1, 2, 3]
    assert results["first_stages"]["f1"]["factor"] == 1
    # A code for each pixel, and a code for each 2 x 2 of them.
    for name, pixels in (("f1_gpt", 1), ("f2_gpt", 4)):
        found = results["priors"][name]
        assert found["bits_per_pixel"] == pytest.approx(found["nll"] / 0.693147 / pixels, rel=1e-4)
    text = page.read_text()
    assert "held out: regions of the same pictures that no training crop touches." in text
    for name in ("priors", "factors", "samples", "losses", "hierarchies", "orderings"):
        assert f"images/study_{name}.png" in text
        assert (page.parent / "images" / f"study_{name}.png").stat().st_size > 0
    # 12 x 12 codes, and 6 x 6 above them; 4 bits each, of 24 x 24 pixels.
    assert "| f2_two_levels | 2 | 180 | 1.250 |" in text
    assert "| f2 | 1 | 144 | 1.000 |" in text
    for name in results["priors"]:
        assert f"{results['priors'][name]['nll']:.3f}" in text

    # The same command again trains nothing, and tells the same; a run that is not done goes on.
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    cut_short(output / "priors" / "f2_spiral_in")
    assert cli.main([str(argument) for argument in argv]) == 0
    changed = {p for p in output.rglob("*.safetensors") if p.stat().st_mtime_ns != before.get(p)}
    assert changed
    assert all("f2_spiral_in" in str(path) for path in changed)
    again = json.loads((output / "study.json").read_text())
    for key in ("steps", "nll"):
        assert again["priors"]["f2_spiral_in"][key] == results["priors"]["f2_spiral_in"][key]
    for name in ("f1", "f2", "f2_vqvae"):
        assert again["first_stages"][name] == results["first_stages"][name]

    # Other settings are another study.
    config.write_text(config.read_text().replace("colours: 8", "colours: 9"))
    assert cli.main([str(argument) for argument in argv]) == cli.USER_ERROR
    assert "holds a study with other settings" in capsys.readouterr().err


def cut_short(run_dir: Path) -> None:
    """As if the run had been killed before its last step."""
    shutil.rmtree(run_dir / "checkpoints" / "step_000003")
    metrics = run_dir / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))


def test_configurations_for_a_cluster_are_those_of_the_runs(
    config: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    argv = ["study", "--config", config, "--data", pictures, "--validation", pictures]
    argv += ["--output", output, "--write-only"]
    config.write_text(config.read_text().replace("crops_per_picture: 2", "crops_per_picture: null"))
    assert cli.main([str(argument) for argument in argv]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert [command.split("/")[-1] for command in commands] == [
        "f2.yaml", "f2_two_levels.yaml", "f2_vqvae.yaml", "f1_gpt.yaml", "f2_gpt.yaml",
        "f2_pixel_snail.yaml", "f2_spiral_in.yaml",
    ]  # fmt: skip
    assert all("torchrun" in command for command in commands)
    assert (output / "first_stages" / "f1" / "vqgan" / "config.json").is_file()
    vqvae = load_config(output / "configs" / "f2_vqvae.yaml")
    assert (vqvae.loss.pixel_loss, vqvae.loss.disc_factor) == ("mse", 0.0)
    assert vqvae.data.train_region == [0.0, 0.0, 1.0, 1.0], "other pictures are held out"
    prior = load_config(output / "configs" / "f1_gpt.yaml")
    assert prior.data.size == 12


def test_configurations_of_codes_that_the_study_writes_are_refused(
    config: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    argv = ["study", "--config", config, "--data", pictures, "--output", output, "--write-only"]
    assert cli.main([str(argument) for argument in argv]) == cli.USER_ERROR
    assert "--write-only needs crops_per_picture: null, " in capsys.readouterr().err
    assert not any(output.iterdir()), "another study may go there"


@pytest.mark.parametrize("region", ["[0.0, 0.0, 0.6, 1.0]", "[0.0, 0.0, 1.0, 1.0]"])
def test_pictures_are_measured_that_no_model_trained_on(
    config: Path, pictures: Path, tmp_path: Path, region: str
) -> None:
    own = f"f1: {{colours: 8, data: {{size: 12, train_region: {region}}}}}"
    config.write_text(config.read_text().replace("f1: {colours: 8, data: {size: 12}}", own))
    message = r"--validation must be given, held-out pictures: f1 in .* overlap"
    with pytest.raises(ConfigError, match=message):
        load_plan(str(config), tmp_path / "out", Pictures(pictures))
    plan = load_plan(str(config), tmp_path / "out", Pictures(pictures, pictures))
    assert plan.first_stages["f1"].run.data.validation_region == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(ConfigError, match="--validation must be given"):
        load_plan("paper", tmp_path / "out", Pictures(pictures))


@pytest.mark.parametrize("name", ["toy", "paper"])
def test_the_shipped_studies_compare_equal_weights_on_a_grid_of_16(
    name: str, pictures: Path, tmp_path: Path
) -> None:
    held_out = pictures if name == "paper" else None  # toy holds out regions
    plan = load_plan(name, tmp_path / "out", Pictures(pictures, held_out))
    for stage in plan.first_stages.values():
        if stage.run.model.quantizer == "hierarchical" and name == "paper":
            continue  # VQ-VAE-2's own grids
        levels = 1 if stage.colours else len(stage.run.model.ch_mult)
        assert stage.run.data.size == 16 * 2 ** (levels - 1)
    gpt, snail = (plan.priors[name].run for name in plan.comparisons["priors"])
    codes = plan.first_stages[plan.priors[plan.comparisons["priors"][0]].first_stage]
    vocab_size = codes.run.model.codebook_size
    sizes = ("n_layer", "n_head", "n_embd")
    with torch.device("meta"):
        models = [
            GPT(vocab_size, 257, **{key: getattr(gpt.gpt, key) for key in sizes}),
            PixelSNAIL(vocab_size, **{key: getattr(snail.gpt, key) for key in sizes}),
        ]
    weights = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    assert max(weights) / min(weights) < 1.05
    assert {plan.priors[name].run.gpt.ordering for name in plan.comparisons["orderings"]} == {
        "row_major", "spiral_in", "spiral_out", "z_curve", "subsample", "alternate",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("priors:", "second:"), "there is no key second"),
        (("disc_num_layers: 1", "disc_num_layers: 9"), "data.size must be at least"),
        (("first_stage: f1}", "first_stage: f3}"), r"first_stage of f1_gpt .* must be one of f1"),
        (("factors: [f1_gpt", "factors: [f3_gpt"), r"comparisons.factors .* names f3_gpt"),
        (("  factors:", "  colours:"), "must be among priors, factors, losses, hierarchies"),
        (("pixel_loss: mse", "pixel_loss: l3"), "loss.pixel_loss must be one of l1, mse"),
        (("ordering: spiral_in", "ordering: snake"), "gpt.ordering must be one of row_major"),
    ],
)
def test_mistakes_in_a_study_are_named(
    config: Path, pictures: Path, change: tuple[str, str], message: str
) -> None:
    config.write_text(config.read_text().replace(*change))
    with pytest.raises(ConfigError, match=message):
        load_plan(str(config), config.parent / "out", Pictures(pictures))


def test_a_clock_that_starts_again_is_counted_on() -> None:
    assert elapsed([{"minutes": m} for m in (1.0, 2.0, 0.5, 3.0)]) == [1.0, 2.0, 2.5, 5.0]


def test_nats_at_a_time_lie_between_the_entries_around_it() -> None:
    curve = [{"minutes": 1.0, "nll": 4.0}, {"minutes": 3.0, "nll": 2.0}]
    assert [nll_at(curve, minutes) for minutes in (1.0, 2.0, 3.0, 9.0)] == [4.0, 3.0, 2.0, 2.0]
    with pytest.raises(ValueError, match=r"minutes must be at least 1, got 0\.5"):
        nll_at(curve, 0.5)


def test_blur_lowers_sharpness() -> None:
    pictures = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    blurred = torch.nn.functional.avg_pool2d(pictures.float(), 3, 1, 1).to(torch.uint8)
    assert sharpness(blurred) < 0.6 * sharpness(pictures)


@pytest.mark.parametrize(
    ("factors", "told"),
    [([2], "f2 trained for"), ([2, 8], "f2 and f8 trained for"), ([2, 8, 16], "f2, f8 and f16 tr")],
)
def test_factors_below_mean_colours_are_told_in_a_sentence(factors: list[int], told: str) -> None:
    names = [f"f{factor}" for factor in factors]
    stages = [
        {"factor": factor, "crop_pixels": 16, "codebook_size": 8, "codebook_usage": 1.0,
         "psnr": 9.0, "mean_colour_psnr": 10.0, "ssim": 0.5}
        for factor in factors
    ]  # fmt: skip
    priors = [{"first_stage": name, "nll": 1.0, "bits_per_pixel": 1.0} for name in names]
    results = {
        "comparisons": {"factors": names},
        "first_stages": dict(zip(names, stages, strict=True)),
        "priors": dict(zip(names, priors, strict=True)),
    }
    assert f"mean colour. {told}" in _factors(results, Path("images"))
