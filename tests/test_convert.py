"""`vqgan-fast convert`: what it reads, what it writes, and what it will not do."""

from __future__ import annotations

import pytest
import taming_files as files
import torch
from diffusers import VQModel

from vqgan_fast import GPT, VQGAN, LatentTransformer, cli
from vqgan_fast.models.conditions import SOSCondition


@pytest.fixture
def model() -> VQGAN:
    return VQGAN(**files.VQGAN_CONFIG).eval()


def run(*argv: object) -> None:
    assert cli.main(["convert", *map(str, argv)]) == 0


def fails(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert cli.main(["convert", *map(str, argv)]) == cli.USER_ERROR
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_a_vqgan_through_every_kind_of_file(tmp_path, model, capsys) -> None:
    ours, taming, imported, vqmodel, back = (tmp_path / name for name in "abcde")
    model.save_pretrained(ours / "vqgan")  # as a run folder has it
    run(ours, "--to", "taming", "--output", taming)
    assert {file.name for file in taming.iterdir()} == {"last.ckpt", "project.yaml"}
    run(taming / "last.ckpt", "--config", taming / "project.yaml", "--output", imported)
    assert same(VQGAN.from_pretrained(imported), model)
    run(imported, "--to", "diffusers", "--output", vqmodel)
    VQModel.from_pretrained(vqmodel)
    run(vqmodel, "--output", back)
    assert same(VQGAN.from_pretrained(back), model)
    assert VQGAN.from_pretrained(back).config == model.config
    told = capsys.readouterr().out.splitlines()
    parameters = sum(p.numel() for p in model.parameters())
    assert told[0] == f"VQGAN, {parameters:,} parameters: {ours} -> {taming} (taming)"


def test_a_transformer_there_and_back(tmp_path, model, capsys) -> None:
    both = LatentTransformer(model, SOSCondition(2), GPT(**files.GPT_CONFIG)).eval()
    both.save_pretrained(tmp_path / "run" / "model")
    run(tmp_path / "run", "--to", "taming", "--output", tmp_path / "out")
    ckpt, config = (tmp_path / "out" / name for name in ("last.ckpt", "project.yaml"))
    run(ckpt, "--config", config, "--output", tmp_path / "back")
    assert same(LatentTransformer.from_pretrained(tmp_path / "back"), both)
    assert "transformer and VQGAN" in capsys.readouterr().out
    message = fails(capsys, tmp_path / "run", "--to", "diffusers", "--output", tmp_path / "vqmodel")
    assert "is a transformer, which diffusers' VQModel has no place for" in message
    assert not (tmp_path / "vqmodel").exists()


def test_nothing_is_overwritten_without_force(tmp_path, model, capsys) -> None:
    model.save_pretrained(tmp_path / "ours")
    for kind, name in (
        ("taming", "project.yaml"),
        ("diffusers", "diffusion_pytorch_model.safetensors"),
        ("vqgan_fast", "config.json"),
    ):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / name).write_text("precious")
        message = fails(capsys, tmp_path / "ours", "--to", kind, "--output", folder)
        assert str(folder / name) in message
        assert "--force" in message
        assert [file.name for file in folder.iterdir()] == [name]
        assert (folder / name).read_text() == "precious"
    run(tmp_path / "ours", "--to", "taming", "--output", tmp_path / "taming", "--force")
    # Not even --force puts a model in the place of what is no model of its kind.
    arguments = ("--to", "diffusers", "--output", tmp_path / "ours", "--force")
    assert "is not replaced by a VQModel" in fails(capsys, tmp_path / "ours", *arguments)
    assert same(VQGAN.from_pretrained(tmp_path / "ours"), model)


def test_averaged_weights_and_partial_checkpoints(tmp_path, model, capsys) -> None:
    weights = {f"model_ema.{k.replace('.', '')}": v + 1 for k, v in model.state_dict().items()}
    weights |= model.state_dict()
    content = {"state_dict": weights}
    ckpt, config = files.write(tmp_path, files.VQMODEL, files.vqgan_params(), content)
    for choice, added in (("auto", 1), ("yes", 1), ("no", 0)):
        run(ckpt, "--config", config, "--ema", choice, "--output", tmp_path / choice)
        loaded = VQGAN.from_pretrained(tmp_path / choice)
        assert torch.equal(loaded.decoder.conv_in.bias, model.decoder.conv_in.bias + added)
    del weights["decoder.conv_in.bias"]
    torch.save(content, ckpt)
    arguments = (ckpt, "--config", config, "--output", tmp_path / "partial")
    assert "1 missing: decoder.conv_in.bias" in fails(capsys, *arguments)
    assert not (tmp_path / "partial").exists()
    with pytest.warns(UserWarning, match="1 missing"):
        run(*arguments, "--partial")


def test_wrong_arguments(tmp_path, model, capsys) -> None:
    model.save_pretrained(tmp_path / "ours")
    ckpt, config = files.write(tmp_path, files.VQMODEL, files.vqgan_params(), {"state_dict": {}})
    out = ("--output", tmp_path / "out")
    assert "no checkpoint or folder" in fails(capsys, tmp_path / "gone", *out)
    assert "needs the YAML file" in fails(capsys, ckpt, *out)
    assert "no configuration file" in fails(capsys, ckpt, "--config", tmp_path / "gone", *out)
    assert "must hold a state dict" in fails(capsys, ckpt, "--config", config, *out)
    assert "--config belongs" in fails(capsys, tmp_path / "ours", "--config", config, *out)
    assert "--ema yes belongs" in fails(capsys, tmp_path / "ours", "--ema", "yes", *out)
    assert "holds no trained VQGAN" in fails(capsys, tmp_path, *out)
    assert not (tmp_path / "out").exists()


def test_our_own_configuration_is_not_the_one_of_a_checkpoint(tmp_path, capsys) -> None:
    (tmp_path / "last.ckpt").touch()
    config = tmp_path / "ours.yaml"
    config.write_text("stage: vqgan\nmodel: {ch: 32}\n")
    out = tmp_path / "out"
    message = fails(capsys, tmp_path / "last.ckpt", "--config", config, "--output", out)
    assert "is a configuration of vqgan_fast, not the reference's" in message
