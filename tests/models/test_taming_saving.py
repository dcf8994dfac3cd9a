"""Models of ours written for the reference, and what it has no place for."""

from __future__ import annotations

import copy

import pytest
import taming_files as files
import torch
from omegaconf import OmegaConf

import vqgan_fast
from vqgan_fast import VQGAN, LatentTransformer, load_taming_transformer
from vqgan_fast.models import ColourCodes, LabelCondition, PixelSNAIL, SOSCondition, WindowGPT
from vqgan_fast.models.taming import save_taming
from vqgan_fast.quantizers.build import QUANTIZERS


@torch.no_grad()
def test_the_reference_builds_the_same_model_from_what_is_written(tmp_path) -> None:
    content = {"state_dict": files.reference_transformer().state_dict()}
    from taming.main import instantiate_from_config  # with what stands in for its trainer

    written = files.write(tmp_path, files.NET2NET, files.transformer_params(), content)
    ours = load_taming_transformer(*written)
    x = files.photograph(64)
    for name, model in (("gpt", ours), ("vqgan", ours.first_stage_model)):
        folder = tmp_path / name
        save_taming(model, folder / "last.ckpt", folder / "project.yaml")
        config = OmegaConf.load(folder / "project.yaml")
        reference = instantiate_from_config(config.model).eval()
        reference.load_state_dict(torch.load(folder / "last.ckpt")["state_dict"])
        if name == "gpt":
            assert reference.pkeep == 0.9
            files.close(reference(x, x)[0], ours(x)[0], 1e-5)
        else:
            files.close(reference(x)[0], ours.first_stage_model(x)[0], 1e-5)
    back = load_taming_transformer(tmp_path / "gpt" / "last.ckpt", tmp_path / "gpt/project.yaml")
    assert all(map(torch.equal, back.state_dict().values(), ours.state_dict().values()))
    assert back.config == ours.config
    assert back.first_stage_model.config == ours.first_stage_model.config


def test_what_the_reference_cannot_be(tmp_path) -> None:
    config = {**files.VQGAN_CONFIG, "double_z": True}
    with pytest.raises(ValueError, match="double_z=True has no counterpart"):
        save_taming(VQGAN(**config), tmp_path / "a", tmp_path / "b")
    assert not any(tmp_path.iterdir())
    with pytest.warns(UserWarning, match="only its loss will differ"):
        model = VQGAN(**{**files.VQGAN_CONFIG, "legacy": False})
        save_taming(model, tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("name", QUANTIZERS)
def test_quantisers_that_the_reference_does_not_have(tmp_path, name: str) -> None:
    torch.manual_seed(0)
    model = VQGAN(**{**files.VQGAN_CONFIG, "embed_dim": 16}, quantizer=name).eval()
    if name in ("vector", "ema"):
        save_taming(model, tmp_path / "a.ckpt", tmp_path / "a.yaml")
        back = VQGAN.from_taming(tmp_path / "a.ckpt", tmp_path / "a.yaml")
        x = files.photograph(32)
        assert torch.equal(back(x)[0], model(x)[0])
        return
    message = f"quantizer = '{name}' has no counterpart in the ref"
    if name == "gumbel":
        message = r"GumbelVQ has z_channels = embed_dim .* has 12, 16 and True"
    with pytest.raises(ValueError, match=message):
        save_taming(model, tmp_path / "a.ckpt", tmp_path / "a.yaml")
    assert not any(tmp_path.iterdir())


@torch.no_grad()
def test_gumbel_draws_are_written(tmp_path) -> None:
    files.reference_vqgan()
    from taming.main import instantiate_from_config

    config = {**files.VQGAN_CONFIG, "embed_dim": 12}
    options = {"kl_weight": 0.25, "temperature": 0.5}
    model = VQGAN(**config, quantizer="gumbel", quantizer_options=options).eval()
    save_taming(model, tmp_path / "a.ckpt", tmp_path / "a.yaml")
    reference = instantiate_from_config(OmegaConf.load(tmp_path / "a.yaml").model).eval()
    reference.load_state_dict(torch.load(tmp_path / "a.ckpt")["state_dict"])
    x = files.photograph(32)
    files.close(reference(x)[1], model(x)[1], 1e-5)  # the divergence, which no draw moves
    assert [reference.temperature_scheduler(step) for step in (0, 9)] == [0.5, 0.5]
    back = VQGAN.from_taming(tmp_path / "a.ckpt", tmp_path / "a.yaml")
    assert torch.equal(back.encode_indices(x), model.encode_indices(x))
    assert back.quantize.kl_weight == 0.25


def test_a_label_condition_survives(tmp_path) -> None:
    model = copy.deepcopy(load_label_model())
    save_taming(model, tmp_path / "a.ckpt", tmp_path / "a.yaml")
    back = load_taming_transformer(tmp_path / "a.ckpt", tmp_path / "a.yaml")
    model.save_pretrained(tmp_path / "ours")
    again = LatentTransformer.from_pretrained(tmp_path / "ours")
    label = {"name": "label", "n_classes": 9}
    assert back.config["condition"] == again.config["condition"] == label


def load_label_model() -> LatentTransformer:
    gpt = vqgan_fast.GPT(**files.GPT_CONFIG)
    condition = vqgan_fast.models.LabelCondition(9)
    return LatentTransformer(VQGAN(**files.VQGAN_CONFIG), condition, gpt)


@pytest.mark.parametrize("kind", [WindowGPT, PixelSNAIL, ColourCodes])
def test_second_stages_that_the_reference_does_not_have(tmp_path, kind) -> None:
    first_stage, transformer = VQGAN(**files.VQGAN_CONFIG), vqgan_fast.GPT(**files.GPT_CONFIG)
    if kind is ColourCodes:
        first_stage = ColourCodes(48)
    else:
        transformer = kind(60, n_layer=2, n_head=2, n_embd=32)
    model = LatentTransformer(first_stage, SOSCondition(), transformer)
    message = f"of type {kind.__name__} has no counterpart in the reference"
    with pytest.raises(ValueError, match=message):
        save_taming(model, tmp_path / "a.ckpt", tmp_path / "a.yaml")
    assert not any(tmp_path.iterdir())


def test_what_the_references_files_leave_out_is_told(tmp_path) -> None:
    names = LabelCondition(2, ["cat", "dog"])
    parts = VQGAN(**files.VQGAN_CONFIG), names, vqgan_fast.GPT(**files.GPT_CONFIG)
    message = "no place for null_token = 59, .*; nor for the names of the classes"
    with pytest.warns(UserWarning, match=message) as told:
        save_taming(LatentTransformer(*parts, null_token=59), tmp_path / "a", tmp_path / "b")
    assert told[0].filename == __file__
