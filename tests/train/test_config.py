"""Configurations: what is read, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from sample_pictures import write_pictures

import vqgan_fast
from vqgan_fast.train import ConfigError, TransformerRun, VQGANRun, load_config, save_config
from vqgan_fast.train.check_sizes import check_discriminator, check_perceptual

CONFIGS = Path(vqgan_fast.__file__).parent / "configs"


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Writes a configuration file in a folder with pictures and gives its path."""
    write_pictures(tmp_path / "photos", 1)
    monkeypatch.chdir(tmp_path)

    def write(content: dict, name: str = "run.yaml") -> Path:
        (tmp_path / name).write_text(yaml.safe_dump(content))
        return tmp_path / name

    return write


VQGAN = {"stage": "vqgan", "run_dir": "runs/a", "data": {"train": "photos"}}
TRANSFORMER = {
    "stage": "transformer",
    "run_dir": "runs/b",
    "first_stage": "photos",
    "data": {"train": "photos"},
}


def test_a_bare_name_means_the_file_here_or_else_the_package_s(given):
    overrides = ["data.train=photos", "run_dir=runs/c"]
    assert load_config("vqgan.yaml", overrides).optim.steps == 100_000
    given({**VQGAN, "optim": {"steps": 3}}, "vqgan.yaml")
    assert load_config("vqgan.yaml").optim.steps == 3
    with pytest.raises(ConfigError, match="no configuration file"):
        load_config("elsewhere/vqgan.yaml", overrides)


def test_a_file_and_overrides_on_top(given):
    path = given({**VQGAN, "optim": {"steps": 7, "base_learning_rate": 1e-5}})
    config = load_config(path, ["optim.steps=9", "model.ch_mult=[1,2]", "data.resize=null"])
    assert isinstance(config, VQGANRun)
    assert (config.optim.steps, config.optim.base_learning_rate) == (9, 1e-5)
    assert config.model.ch_mult == [1, 2]
    assert config.data.resize is None
    assert config.loss.disc_weight == 0.8


def test_an_override_can_change_the_stage(given):
    config = load_config(given(TRANSFORMER), ["pkeep=0.9"])
    assert isinstance(config, TransformerRun)
    with pytest.raises(ConfigError, match=r"first_stage.*belongs to stage: transformer"):
        load_config(given(TRANSFORMER), ["stage=vqgan"])


def test_what_is_saved_reads_as_the_same_run(given, tmp_path):
    for content in (VQGAN, TRANSFORMER):
        config = load_config(given(content), ["optim.max_minutes=1.5", "seed=3"])
        save_config(config, tmp_path / "saved.yaml")
        assert load_config(tmp_path / "saved.yaml") == config


@pytest.mark.parametrize("name", ["vqgan", "transformer"])
def test_the_examples_hold_valid_keys_and_lack_only_the_data(given, name):
    given({})
    with pytest.raises(ConfigError, match=r"(data\.train|first_stage) must be given"):
        load_config(CONFIGS / f"{name}.yaml")
    overrides = ["data.train=photos", *(["first_stage=photos"] if name == "transformer" else [])]
    assert load_config(CONFIGS / f"{name}.yaml", overrides).stage == name


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        ({"optim": {"step": 5}}, [], r"no key optim\.step in .*run\.yaml; .*optim\.steps\?"),
        ({}, ["optim.setps=5"], r"no key optim\.setps on the command line; .*optim\.steps\?"),
        ({"steps": 5}, [], r"no key steps .*did you mean optim\.steps\?"),
        ({"xyzzy": 5}, [], "no key xyzzy .*known here: stage, run_dir"),
        ({}, ["pkeep=0.5"], "pkeep on the command line belongs to stage: transformer"),
        ({}, ["gpt.n_layer=2"], "gpt on the command line belongs to stage: transformer"),
        ({}, ["data.codes=x"], r"data\.codes .* belongs to stage: transformer"),
        (
            {},
            ["stage=vqgn"],
            "stage must be one of vqgan, transformer, got 'vqgn' on the command line",
        ),
        ({"stage": "vqgn"}, [], r"transformer, got 'vqgn' in .*run\.yaml"),
        ({"optim": 5}, [], "optim in .* must hold keys and values, got 5"),
        ({}, ["optim.steps=many"], r"optim\.steps on the command line: Value 'many'"),
        ({"optim": {"steps": 1.5}}, [], r"optim\.steps in .*run\.yaml: Value '1\.5'"),
        ({}, ["optim.steps"], "an override must look like optim.steps=100, got 'optim.steps'"),
        ({}, ["stage=[vqgan]"], r"stage must be one of vqgan, transformer, got \['vqgan'\]"),
        ({}, ["model.dropout=nan"], r"model\.dropout must be a finite number, got nan"),
        ({}, ["optim.learning_rate=inf"], r"optim\.learning_rate must be a finite number, got inf"),
        ({}, ["rank_timeout_minutes=1e300"], r"rank_timeout_minutes must be at most 1000000, got"),
        ({}, ["seed=9223372036854775808"], r"seed must be below 2\^63 = .*, got 92233720368547758"),
        ({}, ["optim.steps=0"], r"optim\.steps must be at least 1, got 0"),
        ({}, ["model.ch=0"], r"model\.ch must be at least 1, got 0"),
        ({}, ["model.dropout=1"], r"model\.dropout must be at least 0 and below 1, got 1"),
        ({}, ["optim.learning_rate=-1"], r"optim\.learning_rate must be above 0, got -1"),
        ({}, ["optim.ema_decay=1"], r"optim\.ema_decay must be at least 0 and below 1, got 1\.0"),
        ({}, ["optim.precision=fp16"], r"optim\.precision must be one of fp32, bf16, got 'fp16'"),
        ({}, ["loss.disc_loss=wgan"], r"loss\.disc_loss must be one of hinge, vanilla"),
        ({}, ["data.size=100"], r"multiple of .* f = 16, got 100; the nearest is 96"),
        ({}, ["data.resize=128"], r"data\.resize must be at least data\.size = 256 .*got 128"),
        ({}, ["data.train=nowhere"], "data.train points to nowhere, which does not exist"),
        ({}, ["data.validation=nowhere"], "data.validation points to nowhere"),
        ({}, ["data.train=null"], r"data\.train must be given"),
        ({}, ["run_dir=null"], "run_dir must be given"),
        ({}, ["data.train_region=[0,0,1]"], r"must be \[left, top, right, bottom\], got \[0"),
        ({}, ["data.train_region=[0.5,0,0.5,1]"], "0 <= left < right <= 1"),
        ({}, ["model.out_ch=1"], r"model\.out_ch must be 3"),
        ({}, ["model.ch_mult=2"], r"ch_mult on the command line: expected a list such as \[1, 2\]"),
        ({}, ["model.ch_mult=[]"], r"model\.ch_mult must have one entry per level"),
    ],
)
def test_mistakes_in_stage_1_are_named(given, content, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(given({**VQGAN, **content}), overrides)


def test_a_discriminator_that_will_train_sees_a_patch(given):
    config = load_config(given(VQGAN), ["data.size=16"])
    with pytest.raises(ConfigError, match=r"data\.size must be at least 24, .* = 3, got 16"):
        check_discriminator(config)
    for change in ("optim.steps=10000", "loss.disc_factor=0", "loss.disc_num_layers=2"):
        check_discriminator(load_config(given(VQGAN), ["data.size=16", change]))


@pytest.mark.parametrize(
    ("net", "size", "least"), [("vgg", 15, 16), ("alex", 30, 31), ("squeeze", 16, 17)]
)
def test_a_perceptual_network_sees_a_picture(given, net, size, least):
    changes = [f"loss.perceptual_net={net}", "model.ch_mult=[1]"]
    told = rf"data\.size must be at least {least}, .*perceptual_net = {net}, got {size}"
    small = load_config(given(VQGAN), [*changes, f"data.size={size}"])
    with pytest.raises(ConfigError, match=told):
        check_perceptual(small)
    small.loss.perceptual_weight = 0.0
    check_perceptual(small)
    check_perceptual(load_config(given(VQGAN), [*changes, f"data.size={least}"]))


def test_the_resolution_is_that_of_the_crops_unless_it_is_given(given):
    path = given(VQGAN)
    for overrides, resolution in (
        ([], 256),
        (["data.size=128"], 128),
        (["data.size=128", "model.resolution=256"], 256),
    ):
        assert load_config(path, overrides).vqgan_arguments()["resolution"] == resolution


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["first_stage=null"], "first_stage must be given"),
        (["first_stage=nowhere"], "first_stage points to nowhere, which does not exist"),
        (["data.train=null"], "exactly one of .* must be given, got none"),
        (["data.codes=photos"], "exactly one of .* must be given, got train and codes"),
        (["pkeep=1.1"], "pkeep must be between 0 and 1"),
        (["gpt.n_head=3"], r"gpt\.n_embd must be a multiple of gpt\.n_head = 3, got 1024"),
        (["gpt.n_head=256"], r"n_embd / gpt\.n_head must be a multiple of 8, .*got 1024 / 256 = 4"),
        (["condition=class"], "condition.kind must be one of sos, label, .*, got 'class'"),
        (
            ["condition.parts=[{kind: edges, sigma: .nan}]"],
            r"parts\[0\]\.sigma must be a finite num",
        ),
        (["model.ch=32"], "model on the command line belongs to stage: vqgan"),
        (["data.maps.sigma=1"], r"data\.maps\.sigma must not be given for a .*, got 1"),
        (["data.maps.kind=edges"], r"data\.maps\.kind must not be given for a transformer"),
    ],
)
def test_mistakes_in_stage_2_are_named(given, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(given(TRANSFORMER), overrides)


def test_files_that_cannot_be_read_are_named(given, tmp_path):
    given(VQGAN, "vqgan.yaml")
    with pytest.raises(
        ConfigError, match=r"no configuration file .*vqgn\.yaml; did you mean .*vqgan"
    ):
        load_config(tmp_path / "vqgn.yaml")
    (tmp_path / "broken.yaml").write_text("optim: [1, 2\nstage")
    with pytest.raises(ConfigError, match=r"broken\.yaml is no valid YAML"):
        load_config(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match="must hold keys and values, got list"):
        load_config(tmp_path / "list.yaml")
