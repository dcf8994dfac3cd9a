"""VQModel folders: the real diffusers reads ours and we read its, with the same pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import taming_files as files
import torch
from diffusers import VQModel
from safetensors.torch import load_file, save_file

from vqgan_fast import VQGAN
from vqgan_fast.models.config_error import ConfigError
from vqgan_fast.models.diffusers_layout import is_diffusers, save_diffusers

CONFIGS = {
    "f1": {"ch_mult": [1], "attn_resolutions": []},
    "f4, attention at two levels": {"attn_resolutions": [64, 16]},
    "f8, more blocks": {"ch_mult": [1, 1, 2, 4], "num_res_blocks": 2, "attn_resolutions": []},
    "other channels": {"in_channels": 1, "out_ch": 2, "z_channels": 5, "embed_dim": 3},
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def make(change: dict | None = None) -> VQGAN:
    torch.manual_seed(0)
    model = VQGAN(**{**files.VQGAN_CONFIG, **(change or {})}).eval()
    with torch.no_grad():
        model.quantize.embedding.weight.normal_(std=0.3)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_diffusers_reads_ours_and_we_read_its_own(tmp_path: Path, name: str) -> None:
    ours = make(CONFIGS[name])
    save_diffusers(ours, tmp_path / "ours")
    theirs, told = VQModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(told.values()), told
    x = torch.rand(1, ours.config["in_channels"], 32, 64) * 2 - 1
    expected = ours(x)[0]
    files.close(theirs.eval()(x).sample, expected, 1e-5)

    theirs.save_pretrained(tmp_path / "theirs")
    assert is_diffusers(tmp_path / "theirs")
    back = VQGAN.from_diffusers(tmp_path / "theirs")
    assert not back.training
    assert back.config == ours.config
    assert all(map(torch.equal, back.state_dict().values(), ours.state_dict().values()))
    assert torch.equal(back(x)[0], expected)


@torch.no_grad()
def test_a_photograph_through_a_model_that_diffusers_made(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = VQModel(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        num_vq_embeddings=40,
        sample_size=33,  # nothing that could be halved: the attention must find its level anyway
    ).eval()
    theirs.quantize.embedding.weight.normal_(std=0.5)
    theirs.save_pretrained(tmp_path)
    ours = VQGAN.from_diffusers(tmp_path)
    x = files.photograph(64)
    assert len(ours.encode_indices(x).unique()) > 5
    files.close(ours(x)[0], theirs(x).sample, 1e-5)


def test_older_names_and_a_pickled_file(tmp_path: Path) -> None:
    ours = make()
    save_diffusers(ours, tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
        weights = {key.replace(f".{new}.", f".{old}."): v for key, v in weights.items()}
    weights = {key.replace(".to_out.0.", ".proj_attn."): v for key, v in weights.items()}
    save_file(weights, tmp_path / WEIGHTS, metadata={"format": "pt"})
    theirs = VQModel.from_pretrained(tmp_path)
    assert torch.equal(theirs.decoder.conv_out.weight, ours.decoder.conv_out.weight)
    attention = "encoder.mid_block.attentions.0.to_q.weight"
    assert torch.equal(theirs.state_dict()[attention], weights[attention.replace("to_q", "query")])
    (tmp_path / WEIGHTS).unlink()
    torch.save(weights, tmp_path / "diffusion_pytorch_model.bin")
    back = VQGAN.from_diffusers(tmp_path)
    assert all(map(torch.equal, back.state_dict().values(), ours.state_dict().values()))


def test_what_diffusers_cannot_be(tmp_path: Path) -> None:
    for change in ({"ch_mult": [2, 1]}, {"double_z": True}, {"quantizer": "cosine"}):
        with pytest.raises(ValueError, match="has no counterpart in diffusers"):
            save_diffusers(make(change), tmp_path)
    assert not any(tmp_path.iterdir())


@torch.no_grad()
def test_codes_of_moving_averages_are_written_without_these(tmp_path: Path) -> None:
    ours = make({"quantizer": "ema"})
    save_diffusers(ours, tmp_path)
    _, told = VQModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values()), told
    x = files.photograph(32)
    assert torch.equal(VQGAN.from_diffusers(tmp_path)(x)[0], ours(x)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_type": "spatial"}, "norm_type = 'spatial' has no counterpart"),
        ({"norm_num_groups": 8}, "norm_num_groups = 8 has no counterpart"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention = False has no"),
        ({"block_out_channels": [32, 48, 64]}, "multiples of the first"),
        ({"block_out_channels": None}, "block_out_channels must be a list, got None"),
        ({"block_out_channels": [32, 64]}, "must describe the same levels"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 3}, "must describe the same levels"),
        ({"down_block_types": ["DownBlock2D"]}, "has DownBlock2D; known are DownEncoderBlock2D"),
        ({"_class_name": "AutoencoderKL"}, "describes AutoencoderKL, expected diffusers' VQModel"),
        ({"latent_channels": 4}, r"encoder\.conv_out\.weight is \(12, 64, 3, 3\), expected \(4,"),
        ({"layers_per_block": 2}, r"12 missing|missing: encoder\.down\.0\.block\.1"),
        ({"num_vq_embeddings": "many"}, "codebook_size must be an integer"),
    ],
)
def test_folders_that_do_not_fit(tmp_path: Path, change: dict, message: str) -> None:
    save_diffusers(make(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as error:
        VQGAN.from_diffusers(tmp_path)
    if "fit" not in str(error.value):
        assert isinstance(error.value, ConfigError)
        assert "config.json" in str(error.value)


def test_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        VQGAN.from_diffusers(tmp_path)
    save_diffusers(make(), tmp_path)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="is damaged"):
        VQGAN.from_diffusers(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"diffusion_pytorch_model\.safetensors"):
        VQGAN.from_diffusers(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        VQGAN.from_diffusers(tmp_path)


def test_a_model_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    ours = make()
    ours.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="a model of type VQGAN and is not replaced by a VQM"):
        save_diffusers(ours, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    save_diffusers(ours, tmp_path / "other")
    with pytest.raises(FileExistsError, match="a model of type VQModel and is not replaced by a V"):
        ours.save_pretrained(tmp_path / "other")


def test_sizes_may_be_numpys_integers(tmp_path: Path) -> None:
    sizes = {"ch": np.int64(32), "ch_mult": list(np.array([1, 2, 2])), "embed_dim": np.int64(8)}
    save_diffusers(make(sizes), tmp_path)
    assert VQModel.from_pretrained(tmp_path).config.block_out_channels == [32, 64, 64]
