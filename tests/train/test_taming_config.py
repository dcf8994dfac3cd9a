"""The reference's own YAML files; the ones here have their structure and no more."""

from __future__ import annotations

import copy
import warnings

import pytest
import yaml
from sample_pictures import write_pictures

from vqgan_fast.train import ConfigError, TransformerRun, VQGANRun, load_config

DDCONFIG = {
    "double_z": False, "z_channels": 64, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": [1, 2, 4], "num_res_blocks": 1, "attn_resolutions": [16], "dropout": 0.0,
}  # fmt: skip
DATA = {
    "target": "main.DataModuleFromConfig",
    "params": {
        "batch_size": 3,
        "num_workers": 5,
        "train": {
            "target": "taming.data.custom.CustomTrain",
            "params": {"training_images_list_file": "train.txt", "size": 64},
        },
        "validation": {
            "target": "taming.data.custom.CustomTest",
            "params": {"test_images_list_file": "test.txt", "size": 64},
        },
    },
}
STAGE_1 = {
    "model": {
        "base_learning_rate": 1.5e-6,
        "target": "taming.models.vqgan.VQModel",
        "params": {
            "embed_dim": 16,
            "n_embed": 128,
            "ddconfig": DDCONFIG,
            "lossconfig": {
                "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
                "params": {
                    "disc_conditional": False, "disc_in_channels": 3, "disc_start": 77,
                    "disc_weight": 0.6, "codebook_weight": 2.0, "perceptual_weight": 0.5,
                    "disc_num_layers": 2, "disc_loss": "vanilla",
                },
            },
        },
    },
    "data": DATA,
}  # fmt: skip
STAGE_2 = {
    "model": {
        "base_learning_rate": 4.5e-6,
        "target": "taming.models.cond_transformer.Net2NetTransformer",
        "params": {
            "unconditional": True,
            "cond_stage_key": "image",
            "pkeep": 0.95,
            "transformer_config": {
                "target": "taming.modules.transformer.mingpt.GPT",
                "params": {"vocab_size": 128, "block_size": 512, "n_layer": 3, "n_embd": 64},
            },
            "first_stage_config": {
                "target": "taming.models.vqgan.VQModel",
                "params": {
                    "ckpt_path": "logs/first/last.ckpt", "embed_dim": 16, "n_embed": 128,
                    "ddconfig": DDCONFIG,
                    "lossconfig": {"target": "taming.modules.losses.DummyLoss"},
                },
            },
            "cond_stage_config": {"target": "taming.models.dummy_cond_stage.DummyCondStage"},
        },
    },
    "data": DATA,
}  # fmt: skip


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads one of the files above after `change` was done to it."""
    write_pictures(tmp_path / "photos", 1)
    for name in ("train.txt", "test.txt"):
        (tmp_path / name).write_text("photos/picture_000.png\n")
    monkeypatch.chdir(tmp_path)

    def read(content, overrides=(), change=lambda content: None):
        content = copy.deepcopy(content)
        change(content)
        (tmp_path / "faces.yaml").write_text(yaml.safe_dump(content))
        return load_config(tmp_path / "faces.yaml", overrides)

    return read


def test_stage_1_becomes_ours(read):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is left out
        config = read(STAGE_1)
    assert isinstance(config, VQGANRun)
    assert config.run_dir == "runs/faces"
    model, loss, data, optim = config.model, config.loss, config.data, config.optim
    assert (model.codebook_size, model.embed_dim, model.z_channels) == (128, 16, 64)
    assert (model.ch, model.ch_mult, model.attn_resolutions) == (32, [1, 2, 4], [16])
    assert (model.num_res_blocks, model.resolution) == (1, 64)
    assert (model.beta, model.legacy) == (0.25, True)
    assert (loss.disc_start, loss.disc_weight, loss.disc_loss) == (77, 0.6, "vanilla")
    assert (loss.codebook_weight, loss.perceptual_weight, loss.disc_num_layers) == (2.0, 0.5, 2)
    assert (data.train, data.validation, data.size, data.resize) == (
        "train.txt",
        "test.txt",
        64,
        64,
    )
    assert (data.crop, data.flip, data.batch_size, data.num_workers) == ("center", False, 3, 5)
    assert optim.base_learning_rate == 1.5e-6


def test_the_references_defaults_hold_where_its_file_says_nothing(read):
    def change(content):
        content["model"]["params"]["lossconfig"]["params"] = {"disc_start": 5}
        del content["data"]["params"]["num_workers"]

    config = read(STAGE_1, change=change)
    assert config.loss.disc_weight == 1.0
    assert config.data.num_workers == 6


def test_stage_2_becomes_ours(read):
    config = read(STAGE_2, ["first_stage=photos"])
    assert isinstance(config, TransformerRun)
    assert (config.gpt.n_layer, config.gpt.n_head, config.gpt.n_embd) == (3, 8, 64)
    assert (config.pkeep, config.condition.kind, config.first_stage) == (0.95, "sos", "photos")
    assert (config.data.train, config.data.batch_size) == ("train.txt", 3)


def test_a_condition_can_be_left_out(read):
    change = put("model.params.unconditional", False)
    assert read(STAGE_2, ["first_stage=photos", "condition=sos"], change).condition.kind == "sos"


def test_overrides_win_in_our_own_keys(read):
    config = read(STAGE_1, ["data.train=photos", "model.ch=64", "data.flip=true", "run_dir=here"])
    assert (config.data.train, config.model.ch) == ("photos", 64)
    assert (config.data.flip, config.run_dir) == (True, "here")


def test_the_trainer_section_gives_what_it_can_and_the_rest_is_told(read):
    def change(content):
        content["lightning"] = {
            "trainer": {"accumulate_grad_batches": 2, "max_steps": 30, "benchmark": True},
            "callbacks": {"image_logger": {}},
        }
        content["model"]["project"] = "faces"

    with pytest.warns(UserWarning, match="left out") as caught:
        config = read(STAGE_1, change=change)
    assert (config.optim.accumulate, config.optim.steps) == (2, 30)
    told = str(caught[0].message)
    for key in ("model.project", "lightning.trainer.benchmark", "lightning.callbacks"):
        assert key in told


def put(path, value):
    """A change that puts a value at a dotted path, None removes it."""

    def change(content):
        *parents, last = path.split(".")
        for key in parents:
            content = content[key]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return change


LOSS = "model.params.lossconfig"
TRAIN = "data.params.train"


@pytest.mark.parametrize(
    ("stage", "change", "overrides", "message"),
    [
        (STAGE_1, put("model.target", "a.Model"), [], r"model\.target is a\.Model, .*VQModel"),
        (STAGE_1, put(f"{LOSS}.target", "a.Loss"), [], r"lossconfig\.target is a\.Loss, .*VQLPIPS"),
        (STAGE_1, put("data.target", "a.Data"), [], r"data\.target is a\.Data, .*DataModule"),
        (
            STAGE_1,
            put(f"{TRAIN}.target", "taming.data.faceshq.FacesHQTrain"),
            [],
            r"data\.params\.train\.target taming\.data\.faceshq\.FacesHQTrain .*data\.train=FOLDER",
        ),
        (STAGE_1, put("model.params.ckpt_path", "x.ckpt"), [], "starts? from a checkpoint"),
        (STAGE_1, put("model.params.n_embed", None), [], r"model\.params\.n_embed is missing"),
        (STAGE_1, put("model.params.ddconfig", None), [], "ddconfig must hold keys and values"),
        (STAGE_1, put("model.params.ddconfig.double_z", True), [], "double_z = True has no"),
        (STAGE_1, put(f"{LOSS}.params.disc_conditional", True), [], "disc_conditional = True"),
        (STAGE_1, put("model.base_learning_rate", None), [], "base_learning_rate is missing"),
        (STAGE_2, lambda content: None, [], "logs/first/last.ckpt, a checkpoint .*first_stage=RUN"),
        (
            STAGE_2,
            put("model.params.unconditional", False),
            ["first_stage=photos"],
            "condition taming.models.dummy_cond_stage.DummyCondStage, which has no counterpart",
        ),
        (
            STAGE_2,
            put("model.params.transformer_config.target", "a.GPT"),
            ["first_stage=photos"],
            r"transformer_config\.target is a\.GPT",
        ),
        (
            STAGE_2,
            put("model.params.first_stage_config.target", "taming.models.vqgan.GumbelVQ"),
            ["first_stage=photos"],
            "GumbelVQ, which has no counterpart",
        ),
    ],
)
def test_what_has_no_counterpart_is_named(read, stage, change, overrides, message):
    with pytest.raises(ConfigError, match=message) as error:
        read(stage, overrides, change)
    assert "faces.yaml" in str(error.value)


def test_other_data_sets_need_only_their_place(read):
    def change(content):
        content["data"]["params"]["train"] = {
            "target": "taming.data.faceshq.FacesHQTrain", "params": {"size": 96, "crop_size": 64},
        }  # fmt: skip
        content["data"]["params"]["validation"] = {
            "target": "taming.data.faceshq.FacesHQValidation", "params": {"size": 96},
        }  # fmt: skip

    with pytest.raises(ConfigError, match=r"data\.validation=FOLDER"):
        read(STAGE_1, ["data.train=photos"], change)
    config = read(STAGE_1, ["data.train=photos", "data.validation=photos"], change)
    assert (config.data.size, config.data.resize, config.data.crop) == (64, 96, "random")
    assert config.data.train == config.data.validation == "photos"
