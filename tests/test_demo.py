"""The demo in miniature: every file, every figure; and the parts it is made of."""

from __future__ import annotations

import html
import json
import re
import shlex
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vqgan_fast import cli
from vqgan_fast.demo import budget as budget_module
from vqgan_fast.demo import encoding
from vqgan_fast.demo.budget import Budget, sampling_seconds
from vqgan_fast.demo.folder import LIST_FILE, make_room
from vqgan_fast.demo.photos import MOST, choose_pictures, photographs, write_list
from vqgan_fast.demo.settings import load_settings, settle_perceptual_loss
from vqgan_fast.models import GPT, VQGAN
from vqgan_fast.sampling import sample_codes
from vqgan_fast.sampling.window_engine import WindowEngine
from vqgan_fast.train import ConfigError, load_config
from vqgan_fast.train.config import LossConfig

pytestmark = pytest.mark.usefixtures("one_thread")

# The smallest models that go through every step: 32 x 32 pixels, 4 x 4 codes.
TINY = [
    *("--vqgan", "model.ch_mult=[1,1,1,1]", "--vqgan", "model.codebook_size=16"),
    *("--vqgan", "model.embed_dim=4", "--vqgan", "model.z_channels=4"),
    *("--vqgan", "loss.perceptual_weights=random", "--vqgan", "loss.disc_start=2"),
    *("--vqgan", "optim.steps=3", "--transformer", "optim.steps=2"),
    *("--transformer", "gpt.n_layer=1", "--transformer", "gpt.n_embd=32"),
]
for _stage in ("--vqgan", "--transformer"):
    TINY += [_stage, "data.size=32", _stage, "data.resize=128", _stage, "data.batch_size=2"]

KEYS = {
    "heldout_psnr", "mean_colour_psnr", "gain_db", "codebook_usage_training",
    "codebook_usage_heldout", "perplexity_training", "perplexity_heldout", "nll_per_code",
    "unigram_cross_entropy", "perceptual", "seconds", "versions", "stage1", "stage2",
}  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished demo on the photographs of scikit-image."""
    output = tmp_path_factory.mktemp("runs") / "my demo"
    assert cli.main(["demo", "--output", str(output), "--minutes", "5", *TINY]) == 0
    return output


def metrics_of(output: Path) -> dict:
    return json.loads((output / "metrics.json").read_text())


def test_demo_writes_every_picture(demo: Path) -> None:
    sizes = {}
    for name in ("reconstructions", "loss_curves", "samples", "wide"):
        with Image.open(demo / f"{name}.png") as picture:
            picture.load()
            sizes[name] = picture.size
    crop = 32
    assert sizes["wide"][1] == crop
    assert sizes["wide"][0] >= 4 * crop
    assert sizes["reconstructions"][0] == 8 * 2 * crop + 7 * 4


def test_demo_measures(demo: Path) -> None:
    metrics = metrics_of(demo)
    assert metrics.keys() >= KEYS
    assert metrics["gain_db"] == metrics["heldout_psnr"] - metrics["mean_colour_psnr"]
    last = json.loads((demo / "stage1" / "metrics.jsonl").read_text().splitlines()[-1])
    assert metrics["codebook_usage_training"] == last["codebook_usage"]
    assert metrics["heldout_psnr_mean_of_crops"] == pytest.approx(last["val_psnr"], rel=1e-4)
    assert 0 < metrics["codebook_usage_heldout"] <= 1
    assert 0 < metrics["nll_per_code"] < 2 * metrics["uniform_cross_entropy"]
    assert metrics["stage1"]["steps"] == 3
    assert metrics["stage2"]["steps"] == 2
    seconds = metrics["seconds"]
    assert seconds["total"] >= seconds["stage 1"] + seconds["stage 2"]


def test_demo_page_shows_every_picture_and_refers_to_nothing_else(demo: Path) -> None:
    page = (demo / "index.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    shown = {"reconstructions.png", "loss_curves.png", "samples.png", "wide.png"}
    assert set(links) == shown
    assert "http" not in page
    metrics = metrics_of(demo)
    assert f"{metrics['heldout_psnr']:.1f} dB" in page
    assert f"{metrics['nll_per_code']:.2f} nats" in page


def test_demo_says_aloud_that_perceptual_features_are_random(demo: Path) -> None:
    metrics = metrics_of(demo)
    assert "random" in metrics["perceptual"]
    assert "RANDOM features" in (demo / "index.html").read_text()


def test_demo_trains_left_of_what_it_measures(tmp_path: Path) -> None:
    (tmp_path / LIST_FILE).write_text("a.png\n")
    for run in load_settings(tmp_path, [], []):
        assert run.data.train_region[2] < run.data.validation_region[0] == 0.75


def test_commands_of_the_page_go_on_from_the_demo(demo: Path) -> None:
    page = (demo / "index.html").read_text()
    told = html.unescape(re.search(r"<pre>(.*)</pre>", page, re.DOTALL).group(1))
    commands = {}
    for line in told.replace("\\\n", " ").splitlines():
        if line.startswith("vqgan-fast "):
            argv = shlex.split(line)[1:]
            cli.parse(argv)
            commands.setdefault(argv[0], []).append(argv)
    assert {name: len(found) for name, found in commands.items()} == {
        "sample": 1, "reconstruct": 1, "train": 2, "demo": 1,
    }  # fmt: skip
    grid = commands["sample"][0].index("--grid") + 1
    assert commands["sample"][0][grid] == "4x32"
    sample = [part.replace("100", "10") for part in commands["sample"][0]]
    assert cli.main(sample) == 0
    for argv in commands["train"]:
        steps = next(part for part in argv if part.startswith("optim.steps="))
        assert int(steps.split("=")[1]) > 3
        assert cli.main([part if part != steps else "optim.steps=4" for part in argv]) == 0
    assert json.loads(
        (demo / "stage1" / "metrics.jsonl").read_text().splitlines()[-1]
    )["step"] == 4  # fmt: skip


def test_a_list_of_pictures_is_whole_or_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "train.txt"
    write_list([tmp_path / "a.png", tmp_path / "b.png"], file)
    before = file.read_text()
    assert before == f"{tmp_path}/a.png\n{tmp_path}/b.png\n"
    written = Path.write_text

    def full_disk(self: Path, text: str, **options: str) -> None:
        written(self, text[:7], **options)
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="disk full"):
        write_list([tmp_path / "c.png"], file)
    assert [path.read_text() for path in tmp_path.iterdir()] == [before]


def test_demo_on_pictures_of_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(3):
        pixels = generator.integers(0, 256, (130 + number, 150, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    whole = (folder / "0.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    output = tmp_path / "demo"
    assert cli.main(["demo", "--output", str(output), "--data", str(folder), *TINY]) == 0
    assert metrics_of(output)["pictures"] == 4
    assert metrics_of(output)["crops_heldout"] == 3 * 4


# --- where the results go -----------------------------------------------------------------------


def test_an_earlier_demo_is_moved_aside(tmp_path: Path) -> None:
    output = tmp_path / "runs" / "demo"
    assert make_room(output) is None
    assert make_room(output) is None  # an empty folder is room enough
    for number in (1, 2):
        (output / LIST_FILE).write_text(f"demo {number}")
        moved = make_room(output)
        assert moved == tmp_path / "runs" / f"demo.{number}"
        assert (moved / LIST_FILE).read_text() == f"demo {number}"
        assert list(output.iterdir()) == []


def test_a_folder_that_is_no_demo_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert cli.main(["demo", "--output", str(tmp_path), *TINY]) == cli.USER_ERROR
    assert "is no demo's folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--minutes", "0"], "minutes must be above 0, got 0"),
        (["--vqgan", "optim.stepz=3"], "optim.steps"),
        (["--transformer", "gpt.n_head=5"], "gpt.n_head = 5"),
        (["--data", "nowhere"], "nowhere"),
        (["--vqgan", "stage=transformer"], "stage"),
    ],
)
def test_mistakes_are_told_before_any_training(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    output = tmp_path / "demo"
    assert cli.main(["demo", "--output", str(output), *arguments]) == cli.USER_ERROR
    assert expected in capsys.readouterr().err
    assert not (output / "stage1").exists()


# --- pictures, settings, time -------------------------------------------------------------------


def test_photographs_are_in_colour_and_at_hand() -> None:
    files = photographs()
    assert len(files) >= 7
    for file in files:
        with Image.open(file) as picture:
            assert picture.mode == "RGB"
            assert min(picture.size) >= 256


def test_a_large_folder_is_thinned_out_evenly(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{number}.png\n" for number in range(2 * MOST)))
    chosen = choose_pictures(listed)
    assert [int(file.stem) for file in chosen] == list(range(0, 2 * MOST, 2))


def test_settings_of_both_stages_fit_together(tmp_path: Path) -> None:
    (tmp_path / LIST_FILE).write_text("a.png\n")
    vqgan, transformer = load_settings(tmp_path, [], ["gpt.n_layer=3"])
    for key in ("size", "resize", "flip", "train_region", "validation_region"):
        assert getattr(vqgan.data, key) == getattr(transformer.data, key)
    assert transformer.gpt.n_layer == 3
    assert vqgan.model.codebook_size >= 256
    assert len(vqgan.model.ch_mult) >= 3
    assert vqgan.loss.disc_start < vqgan.optim.steps
    with pytest.raises(ConfigError, match="n_leyer"):
        load_settings(tmp_path, [], ["gpt.n_leyer=3"])


def test_perceptual_loss_is_settled_before_training() -> None:
    loss = LossConfig(perceptual_net="squeeze", perceptual_weights="random")
    perceptual = settle_perceptual_loss(loss)
    assert "random" in perceptual.description
    assert "RANDOM" in perceptual.note
    loss = LossConfig(perceptual_weight=0.0)
    assert settle_perceptual_loss(loss) == ("none", "")


def test_budget_keeps_time_back() -> None:
    budget = Budget(10, time.monotonic() - 60)
    assert budget.elapsed == pytest.approx(60, abs=1)
    before = budget.training_minutes(1.0)
    assert before < 9
    budget.keep_for_sampling(20)
    assert before - budget.training_minutes(1.0) >= 20 / 60
    assert budget.training_minutes(0.5) == pytest.approx(budget.training_minutes(1.0) / 2, rel=1e-3)
    budget.keep_for_sampling(1e6)
    assert budget.training_minutes(1.0) > 5
    budget.keep_for_sampling(0)
    assert budget.training_minutes(1.0) == pytest.approx(before, abs=0.01)
    late = Budget(1, time.monotonic() - 600)
    assert late.training_minutes(1.0) == 15 / 60  # enough for a checkpoint and some steps
    with budget.phase("nap"):
        time.sleep(0.12)
    assert budget.seconds["nap"] >= 0.1


def test_sampling_is_foreseen_from_what_the_sampler_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that counts the tokens that are forwarded, the probe foresees their number."""
    forwarded, forward = [0], WindowEngine.forward

    def counted(self: WindowEngine, tokens: torch.Tensor, *rows: torch.Tensor) -> torch.Tensor:
        forwarded[0] += len(tokens)
        return forward(self, tokens, *rows)

    monkeypatch.setattr(WindowEngine, "forward", counted)
    monkeypatch.setattr(budget_module.time, "perf_counter", lambda: forwarded[0])
    gpt = GPT(16, 64, n_layer=1, n_head=1, n_embd=8).eval()
    foreseen = sampling_seconds(gpt, 8, 3, 40)
    assert forwarded[0] < foreseen / 3, "a probe is a small part of it"
    forwarded[0] = 0
    for batch, grid in ((3, (8, 8)), (1, (8, 40))):
        cond = torch.zeros(batch, 1, dtype=torch.int64)
        sample_codes(gpt, cond, grid, window=8, seeds=range(batch))
    assert foreseen == pytest.approx(forwarded[0], rel=0.05)


def test_fewer_crops_are_encoded_where_time_is_short(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vqgan = VQGAN.from_pretrained(demo / "stage1" / "vqgan")
    run = load_config(demo / "stage2" / "config.yaml")
    pictures = photographs()
    monkeypatch.setattr(encoding, "median_seconds", lambda action, repeats: 16 * 0.1)  # 0.1 a crop
    counts = [
        encoding.write_training_codes(vqgan, pictures, run, tmp_path / "codes.safetensors", minutes)
        for minutes in (0.0, 0.05)
    ]
    assert counts == [len(pictures), 30 // len(pictures) * len(pictures)]
    assert (run.data.train, run.data.codes) == (None, str(tmp_path / "codes.safetensors"))
