"""What `vqgan-fast plan` says: against measured peaks, by hand, and when something is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sample_pictures import write_pictures
from tiny_vqgan import tiny_vqgan
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from vqgan_fast import cli
from vqgan_fast.cli.plan import PARTS
from vqgan_fast.models import ColourCodes
from vqgan_fast.plan.allocations import Allocations
from vqgan_fast.plan.estimate import duration, largest_batch, on_a_card
from vqgan_fast.plan.load import load_plan
from vqgan_fast.plan.rehearsal import Rehearsal, Setting, StepMemory
from vqgan_fast.plan.report import make_plan, render
from vqgan_fast.train import ConfigError

GIB = 2**30
HERE = Path(__file__).parent


def test_allocations_live_as_long_as_someone_needs_them():
    with FakeTensorMode():
        weight = torch.ones(1000, 1000, requires_grad=True)
        with Allocations() as seen:
            x = torch.empty(1000, 1000)
            y = (x * weight).relu()  # the product is freed: relu saves its result, * saves x
            assert seen.now == 2 * 4_000_000
            assert seen.peak == 3 * 4_000_000
            z = y[0].sum()  # a view takes nothing
            assert seen.now == 2 * 4_000_000 + 4
            z.backward()
            del x, y, z
            assert seen.now == 4_000_000  # the gradient
            _large = torch.empty(5_000_000)
        assert seen.peak == 24_000_000
        assert seen.peak_without([weight.grad]) == 20_000_000
        with Allocations() as seen:
            F.conv2d(torch.empty(2, 1, 10, 10), torch.empty(3, 1, 3, 3), padding=1)
            # x, weights, the result; within, the larger of x's and the result's copy, and weights.
            assert seen.now == 0 and seen.peak == 4 * (200 + 27 + 600 + 600 + 27)
        with Allocations() as seen:
            F.conv2d(torch.empty(2, 1, 10, 10), torch.empty(3, 1, 1, 1))  # a matrix product
            assert seen.peak == 4 * (200 + 3 + 600)
        with Allocations() as seen:
            _view = weight.t().detach()  # a weight is there before, however it is looked at
        assert seen.peak == 0


def test_the_plan_is_within_15_percent_of_the_measured_peak():
    """Two real steps of each stage in a process of its own; the script knows larger cases.

    Stage 2 with all that it can be conditioned on: without any, its plan is a part of that one.
    """
    cases = ["vqgan:0", "transformer:0:combined:4", "transformer:0:pixel_snail:4"]
    done = subprocess.run(
        [sys.executable, HERE / "measured_peak.py", *cases],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["case"] for line in lines] == cases
    for line in lines:
        assert line["planned"] == pytest.approx(line["measured"], rel=0.15), line


MEMORY = StepMemory(
    weights=100,
    fixed=10,
    average=100,
    optimizer=200,
    gradients=100,
    working=50,
    activations=80,
    largest_block=20,
)


def test_a_card_holds_everything_or_its_part():
    assert MEMORY.total == 560
    alone = on_a_card(MEMORY, reserve_gib=0)
    assert alone.total == 560 and alone.exchange == 0
    replicated = on_a_card(MEMORY, 4, reserve_gib=1 / GIB)
    assert replicated.exchange == 100 and replicated.total == 661
    sharded = on_a_card(MEMORY, 4, sharded=True, reserve_gib=0)
    assert (sharded.weights, sharded.average, sharded.optimizer, sharded.gradients) == (
        25,
        25,
        50,
        25,
    )
    assert (sharded.exchange, sharded.working) == (2 * 20 + 20, 80)
    half = on_a_card(MEMORY, 4, sharded=True, precision="bf16", reserve_gib=0)
    assert half.exchange == 20 + 20
    several = on_a_card(MEMORY, 4, sharded=True, accumulate=3, reserve_gib=0)
    assert several.exchange == 2 * 20 + 100  # the gradients of all blocks are whole meanwhile


@pytest.mark.parametrize("sizes", [(1, 2), (8, 1)])
def test_the_largest_batch_is_the_last_that_fits(sizes):
    def working(batch):
        return 30 + 7 * batch

    for capacity in range(440, 600):
        batch = largest_batch({size: working(size) for size in sizes}, 400, capacity)
        assert 400 + working(batch) <= capacity < 400 + working(batch + 1)
    assert largest_batch({1: 37, 2: 44}, 400, 300) == 0


def test_the_largest_batch_holds_where_another_part_comes_to_be_the_peak(tmp_path):
    """The transformer has copies of its weights in bf16, encoding more for each picture."""
    first = (
        "stage: vqgan\nmodel: {ch: 64, ch_mult: [1, 1, 1, 1], num_res_blocks: 1, resolution: 64}\n"
    )
    (tmp_path / "first.yaml").write_text(first)
    argv = [f"first_stage={tmp_path / 'first.yaml'}", "optim.precision=bf16", "gpt.n_layer=2"]
    argv += ["gpt.n_head=8", "gpt.n_embd=512", "data.size=64", "data.batch_size=1"]

    (row,) = make_plan("transformer.yaml", argv, memory_gib=1, reserve_gib=0)["settings"]
    (most,) = row["largest_batch"].values()
    rehearsal = Rehearsal(*load_plan("transformer.yaml", argv))
    few, many = (rehearsal.step(Setting(n, "bf16")).total for n in (most, most + most // 20))
    assert few <= GIB < many


def test_the_duration_lies_between_hidden_and_open_exchange():
    time = duration(
        Setting(8), 4, steps=100, accumulate=2, rate=16.0, gradients=10**9, link_gbytes=5
    )
    assert (time.steps, time.samples) == (100, 100 * 8 * 2 * 4)
    assert time.best == pytest.approx(100 * 1.0)
    assert time.worst == pytest.approx(100 * (1.0 + 2 * 3 / 4 / 5))
    slow = duration(Setting(8), 4, 100, 1, 1e9, 10**9, 5, sharded=True)
    assert slow.best == pytest.approx(100 * 3 * 3 / 4 / 5)  # nothing left to hide behind


TINY = (
    "model.codebook_size=32", "model.embed_dim=8", "model.ch=32", "model.ch_mult=[1,1]",
    "model.z_channels=16", "model.num_res_blocks=1", "model.attn_resolutions=[]",
    "model.resolution=32", "data.size=32", "data.resize=null", "loss.perceptual_weight=0",
    "loss.disc_ndf=8", "loss.disc_num_layers=2", "optim.steps=1000", "data.batch_size=4",
)  # fmt: skip


def plan(capsys, *argv):
    assert cli.main(["plan", *argv]) == 0
    return capsys.readouterr().out


def test_the_command_needs_neither_pictures_nor_a_card(capsys):
    options = ("--gpus", "4", "--memory", "1", "--reserve", "0", "--compare", "--rate", "100")
    told = json.loads(plan(capsys, "vqgan.yaml", *TINY, *options, "--json"))
    given, *others = told["settings"]
    assert given["precision"] == "bf16" and given["fits"] is True
    assert given["total"] == sum(given["parts"].values())
    assert given["parts"]["optimizer"] == 2 * given["parts"]["weights"] > 0
    by_setting = {(row["precision"], row["checkpointing"]): row for row in told["settings"]}
    assert len(by_setting) == len(others) + 1 == 4
    least, most = by_setting["bf16", True], by_setting["fp32", False]
    assert least["parts"]["working"] < 0.7 * most["parts"]["working"]
    assert least["largest_batch"]["1"] > most["largest_batch"]["1"] > 4
    assert told["duration"]["samples"] == 1000 * 4 * 4
    assert told["duration"]["best"] == pytest.approx(1000 * 4 / 100)

    told["settings"][0]["fits"] = False
    text = render(told, PARTS)
    assert "on each of 4 cards, bf16" in text and "does NOT fit into 1 GiB" in text
    assert "1000 steps, 16000 samples: 0.0 h" in text


def test_crops_too_small_for_a_discriminator_that_never_starts_are_planned(capsys):
    small = ("data.size=16", "loss.disc_num_layers=3", "loss.disc_start=2000")
    (row,) = json.loads(plan(capsys, "vqgan.yaml", *TINY, *small, "--json"))["settings"]
    assert row["parts"]["weights"] > 0 and row["parts"]["working"] > 0


def test_stage_2_takes_a_first_stage_that_is_not_trained_yet(capsys, tmp_path):
    first = tmp_path / "first.yaml"
    first.write_text(
        "stage: vqgan\nmodel: {ch: 32, ch_mult: [1, 1], z_channels: 16, embed_dim: 8}\n"
    )
    gpt = ("gpt.n_layer=2", "gpt.n_head=2", "gpt.n_embd=32", "data.size=16", "data.batch_size=2")
    argv = ("transformer.yaml", f"first_stage={first}", *gpt, "--gpus", "8", "--json")
    changes = ("optim.sharded=true", "optim.activation_checkpointing=true")
    changes += ("data.global_batch_size=32", "optim.accumulate=2")  # a batch of 2 for each of 8
    whole, sharded = json.loads(plan(capsys, *argv)), json.loads(plan(capsys, *argv, *changes))
    parts, cut = whole["settings"][0]["parts"], sharded["settings"][0]["parts"]
    assert sharded["sharded"] and sharded["settings"][0]["checkpointing"]
    assert sharded["settings"][0]["batch_size"] == 2
    assert parts["fixed"] > 0
    assert cut["optimizer"] == -(-parts["optimizer"] // 8)
    assert set(whole["settings"][0]["largest_batch"]) >= {"24", "80"}
    encoded = json.loads(plan(capsys, *argv, "data.codes=codes/"))
    assert encoded["settings"][0]["parts"]["working"] <= parts["working"]
    assert "data.codes = codes/ is not there yet: 8 x 8 codes are assumed" in encoded["codes"]


@pytest.mark.parametrize("name", ["codes.safetensors", "codes"])
def test_codes_that_are_there_have_the_grid(capsys, tmp_path, name):
    vqgan = tiny_vqgan(resolution=16)
    vqgan.save_pretrained(tmp_path / "first" / "vqgan")
    write_pictures(tmp_path / "photos", 2)
    codes = tmp_path / name
    tokenize = ["tokenize", tmp_path / "first", tmp_path / "photos", "--output", codes]
    assert cli.main([*map(str, tokenize), "--size", "32", "--device", "cpu"]) == 0
    capsys.readouterr()
    gpt = ("gpt.n_layer=1", "gpt.n_head=2", "gpt.n_embd=32", "data.batch_size=2")
    argv = ("transformer.yaml", f"first_stage={tmp_path / 'first'}", *gpt)
    fits, other = (
        json.loads(plan(capsys, *argv, f"data.codes={codes}", f"data.size={size}", "--json"))
        for size in (32, 13)
    )
    assert fits["grid"] == other["grid"] == [16, 16]
    assert fits["settings"] == other["settings"]
    assert fits["codes"] == f"16 x 16 codes are those of data.codes = {codes}"
    contradicts = f"data.size = 13 contradicts data.codes = {codes}, whose 16 x 16 codes are of "
    assert other["codes"] == f"{contradicts}crops of 32 x 32 pixels: data.size is not used"
    first, second, *_ = render(other, PARTS).splitlines()
    assert "2 samples of 16 x 16 codes on one card" in first and second == other["codes"]
    given = [*argv, f"data.codes={codes}", "data.size=16", "data.validation=nowhere"]
    assert cli.main(["plan", *given]) == cli.USER_ERROR
    assert "are of crops of 32 x 32 pixels: the pictures of" in capsys.readouterr().err


def test_codes_that_cannot_be_read_are_not_planned(capsys, tmp_path):
    (tmp_path / "codes").mkdir()
    argv = ["plan", "transformer.yaml", f"data.codes={tmp_path / 'codes'}"]
    assert cli.main(argv) == cli.USER_ERROR
    assert "is no finished folder of codes" in capsys.readouterr().err


def test_codes_of_colours_are_one_for_each_pixel(capsys, tmp_path):
    ColourCodes(16).save_pretrained(tmp_path)
    gpt = (
        "gpt.n_layer=1",
        "gpt.n_head=2",
        "gpt.n_embd=32",
        "data.batch_size=2",
        "gpt.n_unmasked=0",
    )
    working = [
        json.loads(plan(capsys, "transformer.yaml", f"first_stage={tmp_path}", *gpt,
                        f"data.size={size}", "--json"))["settings"][0]["parts"]["working"]
        for size in (8, 16)
    ]  # fmt: skip
    assert working[1] > 3 * working[0] > 0


def test_activations_that_make_room_for_gradients_are_told(capsys, tmp_path):
    first = tmp_path / "first.yaml"
    first.write_text("stage: vqgan\nmodel: {ch: 32, ch_mult: [1, 1], z_channels: 16}\n")
    heavy = ("gpt.n_layer=1", "gpt.n_head=1", "gpt.n_embd=64", "data.size=16", "data.batch_size=1")
    argv = ("transformer.yaml", f"first_stage={first}", "transformer=pixel_snail", *heavy)
    told = json.loads(plan(capsys, *argv, "--json"))
    (row,) = told["settings"]
    assert row["activations"] > row["parts"]["working"]
    assert row["total"] == sum(row["parts"].values())
    text = render(told, PARTS)
    assert re.search(r"activations and temporaries reach \d\.\d\d GiB in all, \d", text)
    # With gradients of an earlier micro-batch there, all of them come on top.
    (row,) = json.loads(plan(capsys, *argv, "optim.accumulate=2", "--json"))["settings"]
    assert row["activations"] == row["parts"]["working"] > 0


STAGE_1 = "stage: vqgan\nmodel: {ch: 32, ch_mult: [1, 1], z_channels: 16, embed_dim: 8"
STAGE_1 += ", resolution: 64"
SMALL_GPT = ("gpt.n_layer=2", "gpt.n_head=2", "gpt.n_embd=32", "data.size=16", "data.batch_size=2")


def test_every_condition_is_planned_before_anything_is_there(tmp_path):
    first, labels = tmp_path / "first.yaml", tmp_path / "labels.yaml"
    first.write_text(f"{STAGE_1}}}\n")
    maps = "{kind: segmentation, n_labels: 20, folder: nowhere}"
    labels.write_text(
        f"{STAGE_1}, in_channels: 20, out_ch: 20}}\n"
        f"loss: {{kind: segmentation}}\ndata: {{maps: {maps}, size: 16, train: nowhere}}\n"
    )
    assert Rehearsal(*load_plan(str(labels))).step(Setting(1)).working > 0

    def fixed(*condition):
        argv = (f"first_stage={first}", *SMALL_GPT, *condition)
        return Rehearsal(*load_plan("transformer.yaml", argv)).step(Setting(1)).fixed

    # Of the transformer's two layers the causal mask is fixed as well.
    def masks(tokens):
        return 2 * 4 * (tokens + 64) ** 2

    alone = fixed("condition=label") - masks(1)
    own = f"{{kind: segmentation, n_labels: 20, folder: nowhere, vqgan: {labels}}}"
    of_labels = fixed(f"condition={own}") - masks(64) - alone
    # Larger than the first stage by 17 channels in (32 filters of 3 x 3) and out (biases as well).
    assert of_labels == alone + 4 * 17 * (2 * 9 * 32 + 1)
    several = f"[{{kind: label}},{{kind: coordinates}},{{kind: low_resolution}},{own}]"
    assert fixed(f"condition.parts={several}") == alone + masks(1 + 3 * 64) + of_labels


def test_the_classes_are_counted_where_the_pictures_are(tmp_path):
    for name in ("cat", "dog", "owl"):
        (tmp_path / name).mkdir()
    argv = ["condition=label", f"data.train={tmp_path}"]
    assert load_plan("transformer.yaml", argv)[1].classes == 3
    assert load_plan("transformer.yaml", [argv[0], "data.train=nowhere"])[1].classes == 1000


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("vqgan.yaml", "--gpus", "0"), "--gpus must be between 1 and 1000000, got 0"),
        (("vqgan.yaml", "--memory", "inf"), r"--memory must be between 0\.001 and 10{6}, got inf"),
        (("vqgan.yaml", "--rate", "nan"), r"--rate must be between 1e-06 and 1000000000, got nan"),
        (("vqgan.yaml", "--reserve", "-1"), r"--reserve must be between 0 and 1000000, got -1"),
        (("vqgan.yaml", "--reserve", "nan"), "--reserve must be between 0 and .*, got nan"),
        (("vqgan.yaml", "--memory", "1e300"), r"--memory must be between .*, got 1e\+300"),
        (("vqgan.yaml", "--reserve", "1e300"), r"--reserve must be between .*, got 1e\+300"),
        (("vqgan.yaml", "--rate", "1e-320"), "--rate must be between .*, got 1e-320"),
        (("vqgan.yaml", "--link", "1e-320"), "--link must be between .*, got 1e-320"),
        (("transformer.yaml", "gpt.n_head=0"), "gpt.n_head must be at least 1, got 0"),
        (("vqgan.yaml", "--sharded"), "--sharded is for stage: transformer"),
        (("vqgan.yaml", "data.global_batch_size=3", "--gpus", "2"), "a multiple of ranks .* = 2"),
        (("vqgan.yaml", "data.size=100"), "must be a multiple of .* f = 16, got 100"),
        (("vqgan.yaml", "data.size=16"), r"data\.size must be at least 24, .*, got 16"),
        (
            ("vqgan.yaml", "data.size=16", "loss.perceptual_net=squeeze", "loss.disc_factor=0"),
            "data.size must be at least 17, the smallest picture of loss.perceptual_net = squeeze",
        ),
        (("vqgan.yaml", "optim.stops=3"), "there is no key optim.stops"),
        (("nowhere.yaml",), "there is no configuration file nowhere.yaml"),
        (("transformer.yaml", "first_stage=transformer.yaml"), "must be of stage: vqgan"),
        (("vqgan.yaml", "data.maps.kind=depth"), "model.in_channels must be 1, the channels of"),
        (("transformer.yaml", "condition=depth"), "condition.vqgan must be given"),
        (
            ("transformer.yaml", "condition.kind=depth", "condition.vqgan=vqgan.yaml"),
            "condition.vqgan must be a VQGAN of 1 channels, those of depth maps, got one of 3",
        ),
    ],
)
def test_what_cannot_be_planned_is_said(capsys, argv, message):
    assert cli.main(["plan", *argv]) == cli.USER_ERROR
    assert re.search(message, capsys.readouterr().err)


def test_a_configuration_is_checked_without_its_paths():
    config, first_stage = load_plan("vqgan.yaml", ["data.shards=nowhere-*.tar"])
    assert first_stage is None and config.data.batch_size == 8
    with pytest.raises(ConfigError, match="first_stage = nowhere holds no VQGAN"):
        load_plan("transformer.yaml", ["first_stage=nowhere"])


def test_more_unmasked_tokens_than_the_condition_has_are_refused_as_in_training():
    config, stages = load_plan("transformer.yaml", ["gpt.n_unmasked=2"])
    with pytest.raises(ConfigError, match=r"gpt\.n_unmasked must be at most 1, .*got 2"):
        Rehearsal(config, stages)
