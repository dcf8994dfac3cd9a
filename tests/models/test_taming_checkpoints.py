"""Checkpoints of the reference: the same pictures, the same logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import taming_files as files
import torch
import yaml
from torch import nn

import vqgan_fast
from vqgan_fast import VQGAN, LatentTransformer, load_taming_transformer
from vqgan_fast.models.config_error import ConfigError


@pytest.fixture(scope="module")
def vqgan_files(tmp_path_factory) -> tuple[Path, Path]:
    content = files.lightning_checkpoint(files.reference_vqgan())
    return files.write(
        tmp_path_factory.mktemp("vqgan"), files.VQMODEL, files.vqgan_params(files.LOSS), content
    )


@pytest.fixture(scope="module")
def gpt_files(tmp_path_factory) -> tuple[Path, Path]:
    # AdamW's decay would move the weights: the optimizers' states are tested with the VQGAN.
    content = {"state_dict": files.reference_transformer().state_dict(), "global_step": 5}
    params = files.transformer_params()
    return files.write(tmp_path_factory.mktemp("gpt"), files.NET2NET, params, content)


# --- the same results -----------------------------------------------------------------------------


@torch.no_grad()
def test_a_photograph_is_reconstructed_as_by_the_reference(vqgan_files) -> None:
    x = files.photograph(192)
    ours = VQGAN.from_taming(*vqgan_files)
    expected, _ = files.reference_vqgan()(x)
    assert not ours.training
    assert ours.quantize.legacy
    assert len(ours.encode_indices(x).unique()) > 5
    files.close(ours(x)[0], expected, 1e-5)


@torch.no_grad()
def test_a_transformer_gives_the_references_logits(gpt_files) -> None:
    x = files.photograph(64)
    ours = load_taming_transformer(*gpt_files)
    assert isinstance(ours, LatentTransformer)
    assert not ours.training
    assert ours.pkeep == 0.9
    assert ours.cond_stage_model.token == 7
    logits, target = ours(x)
    expected_logits, expected_target = files.reference_transformer()(x, x)
    assert torch.equal(target, expected_target)
    files.close(logits, expected_logits, 1e-5)
    assert set(map(str, ours.state_dict())) == set(files.reference_transformer().state_dict())


@torch.no_grad()
def test_the_first_stage_of_a_transformers_checkpoint(gpt_files) -> None:
    x = files.photograph(64)
    files.close(VQGAN.from_taming(*gpt_files)(x)[0], files.reference_vqgan()(x)[0], 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("unmasked", [0, 1])
def test_class_labels_and_an_unmasked_prefix(tmp_path, unmasked) -> None:
    from taming.models.cond_transformer import Net2NetTransformer

    files.reference_transformer()
    params = files.transformer_params()
    params["cond_stage_config"] = {
        "target": "taming.modules.util.Labelator", "params": {"n_classes": 55},
    }  # fmt: skip
    params["transformer_config"]["params"]["n_unmasked"] = unmasked
    reference = Net2NetTransformer(**params).eval()
    content = {"state_dict": reference.state_dict()}
    ours = load_taming_transformer(*files.write(tmp_path, files.NET2NET, params, content))
    x, labels = files.photograph(64).expand(2, -1, -1, -1), torch.tensor([54, 3])
    logits, _ = ours(x, labels)
    files.close(logits, reference(x, labels)[0], 1e-5)
    with pytest.raises(ValueError, match="must be the labels of the images, got None"):
        ours(x)
    with pytest.raises(ValueError, match=r"condition_input must lie in \[0, 55\)"):
        ours(x, torch.tensor([55, 0]))


@torch.no_grad()
def test_coordinates(tmp_path) -> None:
    files.reference_transformer()  # with what stands in for its trainer
    from taming.models.cond_transformer import Net2NetTransformer

    params = files.transformer_params()
    params["cond_stage_config"] = {
        "target": "taming.modules.misc.coord.CoordStage",
        "params": {"n_embed": 56, "down_factor": 4},
    }
    reference = Net2NetTransformer(**params).eval()
    content = {"state_dict": reference.state_dict()}
    ours = load_taming_transformer(*files.write(tmp_path, files.NET2NET, params, content))
    assert ours.cond_stage_model.config == {"name": "coordinates", "n_tokens": 56, "factor": 4}
    x, where = files.photograph(32), torch.arange(32.0**2).view(1, 1, 32, 32) / 32**2
    files.close(ours(x, where)[0], reference(x, where)[0], 1e-5)


def test_the_condition_may_be_a_module_of_the_callers(tmp_path, gpt_files) -> None:
    """A condition with weights of its own: a second VQGAN, of maps that the file does not name."""
    params = files.transformer_params()
    params["cond_stage_config"] = {"target": files.VQMODEL, "params": files.vqgan_params()}
    weights = dict(files.reference_transformer().state_dict())
    second = {k: v for k, v in files.reference_vqgan().state_dict().items() if "loss" not in k}
    weights |= {f"cond_stage_model.{k}": v + 1 for k, v in second.items()}
    ckpt, config = files.write(tmp_path, files.NET2NET, params, {"state_dict": weights})
    message = r"VQModel: codes of maps.* condition=CodesCondition\(VQGAN\.from_taming\(ckpt"
    with pytest.raises(ConfigError, match=message):
        load_taming_transformer(ckpt, config)
    condition = vqgan_fast.models.SOSCondition(2)
    assert load_taming_transformer(ckpt, config, condition=condition).cond_stage_model is condition
    own = VQGAN.from_taming(ckpt, config, stage="cond_stage")
    assert all(torch.equal(own.state_dict()[k], v + 1) for k, v in second.items())
    condition = vqgan_fast.models.CodesCondition(own, {"kind": "depth"})
    model = load_taming_transformer(ckpt, config, condition=condition)
    x = files.photograph(32)
    assert model(x, x)[0].shape == (1, 64, files.GPT_CONFIG["vocab_size"])
    with pytest.raises(ConfigError, match="cond_stage_config must hold keys and values"):
        VQGAN.from_taming(*gpt_files, stage="cond_stage")
    with pytest.raises(ValueError, match="stage must be one of first_stage, cond_stage, got 'x'"):
        VQGAN.from_taming(*gpt_files, stage="x")


@torch.no_grad()
def test_a_vqgan_with_gumbel_draws(tmp_path) -> None:
    """The reference draws, in evaluation too: from the same logits, and it decodes alike."""
    files.reference_vqgan()
    from taming.models.vqgan import GumbelVQ

    params = files.vqgan_params()
    params["embed_dim"] = params["ddconfig"]["z_channels"]
    scheduler = "taming.lr_scheduler.LambdaWarmUpCosineScheduler"
    numbers = {"warm_up_steps": 1, "lr_min": 0.1, "lr_max": 1, "lr_start": 0, "max_decay_steps": 9}
    params["temperature_scheduler_config"] = {"target": scheduler, "params": numbers}
    params["kl_weight"] = 0.5
    torch.manual_seed(4)
    reference = GumbelVQ(**params).eval()
    content = {"state_dict": reference.state_dict()}
    ours = VQGAN.from_taming(*files.write(tmp_path, files.GUMBELVQ, params, content))
    assert ours.config["quantizer"] == "gumbel"
    assert ours.state_dict().keys() == reference.state_dict().keys()
    x = files.photograph(64)
    expected = reference.quantize.proj(reference.encode_to_prequant(x)).argmax(1)
    indices = ours.encode_indices(x)
    assert torch.equal(indices, expected)
    assert len(indices.unique()) > 5
    codes = reference.quantize.get_codebook_entry(
        expected.flatten(), (*expected.shape, params["embed_dim"])
    )
    files.close(ours.decode_indices(indices), reference.decode(codes), 1e-5)
    files.close(ours(x)[1], reference(x)[1], 1e-5)  # the divergence, which no draw moves


def test_latent_diffusions_names_and_half_precision(tmp_path) -> None:
    def halve(weights, params):
        for key in weights:
            weights[key] = weights[key].half()

    ckpt, config = files.small(tmp_path, halve)
    text = config.read_text().replace(files.VQMODEL, "ldm.models.autoencoder.VQModelInterface")
    config.write_text(text)
    loaded = VQGAN.from_taming(ckpt, config)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    expected = files.reference_vqgan().state_dict()["decoder.conv_out.weight"].half().float()
    assert torch.equal(loaded.decoder.conv_out.weight, expected)


def test_weights_do_not_hang_on_the_file(tmp_path) -> None:
    ckpt, config = files.small(tmp_path)
    loaded = VQGAN.from_taming(ckpt, config)
    with open(ckpt, "rb+") as file:  # in place: a mapped file would change, or end, under them
        file.truncate(0)
    expected = files.reference_vqgan().state_dict()
    assert all(torch.equal(expected[k], v) for k, v in loaded.state_dict().items())


# --- averaged weights -----------------------------------------------------------------------------


def latent_diffusions(weights: dict) -> dict:
    shadows = {f"model_ema.{k.replace('.', '')}": v + 1 for k, v in weights.items()}
    counters = {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(3)}
    return {"state_dict": {**weights, **shadows, **counters}}


def lightnings(weights: dict) -> dict:
    return {
        "state_dict": {k: v + 1 for k, v in weights.items()},
        "current_model_state": dict(weights),
        "averaging_state": {"n_averaged": torch.tensor(3)},
    }


@pytest.mark.parametrize("layout", [latent_diffusions, lightnings])
def test_averaged_weights_are_taken_unless_told_otherwise(tmp_path, layout) -> None:
    ckpt, config = files.small(tmp_path)
    weights = torch.load(ckpt)["state_dict"]
    torch.save(layout(weights), ckpt)
    for use_ema, added in ((None, 1), (True, 1), (False, 0)):
        loaded = VQGAN.from_taming(ckpt, config, use_ema=use_ema).state_dict()
        assert all(torch.equal(loaded[k], v + added) for k, v in weights.items())


def test_averaged_weights_that_are_not_there(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"last\.ckpt holds no averaged weights"):
        VQGAN.from_taming(*files.small(tmp_path), use_ema=True)


def test_averages_that_do_not_fit_are_told(tmp_path) -> None:
    ckpt, config = files.small(tmp_path)
    weights = torch.load(ckpt)["state_dict"]
    content = latent_diffusions(weights)["state_dict"]
    torch.save(content | {"model_ema.somethingelse": torch.zeros(1)}, ckpt)
    with pytest.warns(UserWarning, match=r"weights that it does not hold: model_ema\.s"):
        loaded = VQGAN.from_taming(ckpt, config)
    assert torch.equal(loaded.quant_conv.bias, weights["quant_conv.bias"] + 1)

    del content["model_ema.quant_convbias"]
    torch.save(content, ckpt)
    with pytest.warns(UserWarning, match=r"no averages of some weights, .* trained: quant_conv\.b"):
        loaded = VQGAN.from_taming(ckpt, config)
    assert torch.equal(loaded.quant_conv.bias, weights["quant_conv.bias"])

    torch.save({k: v for k, v in content.items() if k not in weights}, ckpt)
    with pytest.raises(ValueError, match=r"holds averaged weights \(model_ema\.\*\) alone"):
        VQGAN.from_taming(ckpt, config)


# --- another architecture -------------------------------------------------------------------------


def test_another_architecture_is_told_weight_by_weight(tmp_path) -> None:
    def change(weights, params):
        params["n_embed"] = 50
        params["ddconfig"]["num_res_blocks"] = 2
        weights["surplus.weight"] = torch.zeros(2)

    with pytest.raises(ValueError) as error:
        VQGAN.from_taming(*files.small(tmp_path, change))
    message = str(error.value)
    assert "last.ckpt does not fit the VQGAN of" in message
    assert "project.yaml (model.params)" in message
    assert "1 of another shape: quantize.embedding.weight is (48, 8), expected (50, 8)" in message
    assert "missing: encoder.down.0.block.1.norm1.weight" in message
    assert "and 60 more" in message
    assert "1 unexpected: surplus.weight" in message
    with pytest.raises(ValueError, match="of another shape"):
        VQGAN.from_taming(*files.small(tmp_path, change), strict=False)


def test_missing_and_unexpected_weights_can_be_taken_with_a_warning(tmp_path) -> None:
    def change(weights, params):
        weights["surplus.weight"] = weights.pop("decoder.conv_out.bias")

    with pytest.raises(ValueError, match=r"1 missing: decoder\.conv_out\.bias"):
        VQGAN.from_taming(*files.small(tmp_path, change))
    with pytest.warns(UserWarning, match=r"1 missing: decoder\.conv_out\.bias\n  1 unexpected"):
        loaded = VQGAN.from_taming(*files.small(tmp_path, change), strict=False)
    assert not any(p.is_meta for p in loaded.parameters())
    assert loaded.decoder.conv_out.bias.isfinite().all()
    expected = files.reference_vqgan().state_dict()["decoder.conv_out.weight"]
    assert torch.equal(loaded.decoder.conv_out.weight, expected)


def test_a_checkpoint_of_something_else_is_refused_even_without_strict(tmp_path) -> None:
    ckpt, config = files.small(tmp_path)
    torch.save({"state_dict": nn.Linear(2, 2).state_dict()}, ckpt)
    with pytest.raises(ValueError, match="missing"):
        VQGAN.from_taming(ckpt, config, strict=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("remap", "used.npy"), r"model\.params\.remap = 'used\.npy' has no counterpart"),
        (("n_embed", None), r"model\.params\.n_embed is missing"),
        (("ddconfig.attn_type", "linear"), "attn_type = 'linear' has no counterpart"),
        (("ddconfig.double_z", True), "double_z = True has no counterpart"),
        (("ddconfig.ch", 33), "ch must be a multiple of 32"),
        (("ddconfig.ch", "32"), r"project\.yaml \(model\.params\): ch must be an integer"),
    ],
)
def test_options_without_a_counterpart(tmp_path, change, message) -> None:
    def put(weights, params):
        *parents, last = change[0].split(".")
        for key in parents:
            params = params[key]
        params[last] = change[1]

    with pytest.raises(ConfigError, match=message):
        VQGAN.from_taming(*files.small(tmp_path, put))


def test_unknown_keys_of_the_architecture_are_told(tmp_path) -> None:
    def change(weights, params):
        params["ddconfig"]["use_magic"] = True
        params["monitor"] = "val/rec_loss"  # of the trainer: no word

    with pytest.warns(UserWarning, match="ddconfig.use_magic have no counterpart") as caught:
        VQGAN.from_taming(*files.small(tmp_path, change))
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("model.target", "taming.models.vqgan.EMAVQ", "EMAVQ, which has no counterpart"),
        ("model", "x", "model must hold keys and values"),
    ],
)
def test_targets_without_a_counterpart(tmp_path, place, value, message) -> None:
    ckpt, config = files.small(tmp_path)
    content = yaml.safe_load(config.read_text())
    parent = content["model"] if "." in place else content
    parent[place.split(".")[-1]] = value
    config.write_text(yaml.safe_dump(content))
    for load in (VQGAN.from_taming, load_taming_transformer):
        with pytest.raises(ConfigError, match=message):
            load(ckpt, config)


def test_a_yaml_file_that_is_none(tmp_path) -> None:
    ckpt, config = files.small(tmp_path)
    for text in ("a: [", "- 1", ""):
        config.write_text(text)
        with pytest.raises(ConfigError, match=r"project\.yaml"):
            VQGAN.from_taming(ckpt, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 3}, r"GPT of .*transformer_config\)\n  .* missing: blocks\.2"),
        ({"n_embd": 64}, r"of another shape: pos_emb is \(1, 257, 32\), expected \(1, 257, 64\)"),
        ({"n_unmasked": 4}, "mask is that of n_unmasked = 0, transformer_config has 4"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"n_head": 5}, "n_embd must be a multiple of n_head"),
    ],
)
def test_a_transformer_that_does_not_fit(tmp_path, gpt_files, change, message) -> None:
    params = files.transformer_params()
    params["transformer_config"]["params"] |= change
    config = files.write_yaml(tmp_path, files.NET2NET, params)
    with pytest.raises(ValueError, match=message):
        load_taming_transformer(gpt_files[0], config)


def test_parts_that_nobody_takes_are_named(tmp_path, gpt_files) -> None:
    content = torch.load(gpt_files[0])
    content["state_dict"]["critic.weight"] = torch.zeros(2)
    torch.save(content, tmp_path / "more.ckpt")
    with pytest.raises(ValueError, match="got critic as well"):
        load_taming_transformer(tmp_path / "more.ckpt", gpt_files[1])
    load_taming_transformer(tmp_path / "more.ckpt", gpt_files[1], strict=False)
