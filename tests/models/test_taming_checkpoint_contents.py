"""What a checkpoint may hold: weights, and what is around them; nothing of it is run."""

from __future__ import annotations

import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import taming_files as files
import torch
from omegaconf import OmegaConf

from vqgan_fast import VQGAN, load_taming_transformer


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Unknown:
    pass


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["state_dict", "callbacks"])
@pytest.mark.parametrize("trusting", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path, monkeypatch, place, zipped, trusting
) -> None:
    if trusting:  # torch's own way of switching the protection off must not reach us
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    ckpt, config = files.small(tmp_path)
    content = torch.load(ckpt, weights_only=True)
    content.setdefault(place, {})["evil"] = Malicious(tmp_path / "ran")
    torch.save(content, ckpt, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"last\.ckpt names (posix|nt)\.mkdir, .* nothing of it"):
        VQGAN.from_taming(ckpt, config)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="nothing of it"):
        load_taming_transformer(
            ckpt, files.write_yaml(tmp_path, files.NET2NET, files.transformer_params())
        )
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_another_protocol_is_refused_without_bad_advice(tmp_path) -> None:
    """Such as pickle.dump writes by default; torch's text would be to read it unchecked."""
    ckpt, config = files.small(tmp_path)
    ckpt.write_bytes(pickle.dumps({"state_dict": Malicious(tmp_path / "ran")}, protocol=5))
    with pytest.raises(ValueError, match="is no checkpoint that can be read") as raised:
        VQGAN.from_taming(ckpt, config)
    assert "weights_only" not in str(raised.value) and not (tmp_path / "ran").exists()


def test_another_class_in_a_pickle_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(ValueError, match=rf"names {Unknown.__module__}\.Unknown, which no"):
        VQGAN.from_taming(*files.small(tmp_path, hyper_parameters={"loss": Unknown()}))


def lightning_class(module: str, name: str, monkeypatch) -> type:
    """A class that pickles under a name of Lightning's, and that cannot be imported afterwards."""
    cls = type(name, (), {"__module__": module})
    stand_in = types.ModuleType(module)
    setattr(stand_in, name, cls)
    monkeypatch.setitem(sys.modules, module, stand_in)
    return cls


def test_what_lightning_puts_around_the_weights_is_passed_over(tmp_path, monkeypatch) -> None:
    module = "pytorch_lightning.callbacks.model_checkpoint"
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    callbacks = types.ModuleType("pytorch_lightning.callbacks")
    monkeypatch.setitem(sys.modules, "pytorch_lightning.callbacks", callbacks)
    key = lightning_class(module, "ModelCheckpoint", monkeypatch)
    ckpt, config = files.small(
        tmp_path,
        callbacks={key: {"best_model_score": np.float64(0.5), "best_model_path": "last.ckpt"}},
        hyper_parameters={"params": OmegaConf.create({"a": [1, {"b": "x"}], "c": "${a}"})},
        hparams_type=OrderedDict,
    )
    monkeypatch.delitem(sys.modules, module)
    loaded = VQGAN.from_taming(ckpt, config)
    assert not loaded.training


def test_the_allow_list_ends_with_the_load(tmp_path) -> None:
    # Compared as sets: torch promises no order.
    before = set(torch.serialization.get_safe_globals())
    VQGAN.from_taming(*files.small(tmp_path))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("text", ["hello", "this is no checkpoint", ""])
def test_a_file_of_text_is_told_what_was_expected(tmp_path, text) -> None:
    ckpt, config = files.small(tmp_path)
    ckpt.write_text(text)
    told = r"last\.ckpt is damaged, or no checkpoint: expected a file that torch\.save wrote$"
    with pytest.raises(ValueError, match=told):
        VQGAN.from_taming(ckpt, config)


@pytest.mark.parametrize("keep", [0, 10, 5000, -20])
def test_a_truncated_file(tmp_path, keep) -> None:
    ckpt, config = files.small(tmp_path)
    ckpt.write_bytes(ckpt.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"last\.ckpt is (damaged|no checkpoint)"):
        VQGAN.from_taming(ckpt, config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must hold a state dict, got list"),
        ({}, "must hold a state dict, got dict"),
        ({"state_dict": {}}, "must hold a state dict, got dict"),
        ({"state_dict": {"encoder": 3}}, "expected dense tensors by name, got 'encoder' of int"),
        ({"model": {"a": torch.zeros(1)}}, "expected dense tensors by name, got 'model' of dict"),
        ({3: torch.zeros(1)}, "expected dense tensors by name, got 3 of Tensor"),
        ({"a": torch.zeros(1, dtype=torch.complex64)}, "got 'a' of torch.strided, torch.complex64"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "got 'a' of torch.sparse_coo, torch.float32"),
        ({"a": torch.zeros(1, device="meta")}, "got 'a' of no data"),
    ],
)
def test_a_file_without_a_state_dict(tmp_path, content, message) -> None:
    ckpt, config = files.small(tmp_path)
    torch.save(content, ckpt)
    with pytest.raises(ValueError, match=message):
        VQGAN.from_taming(ckpt, config)


def test_weights_that_are_no_numbers_with_a_point(tmp_path) -> None:
    ckpt, config = files.small(tmp_path)
    weights = torch.load(ckpt)["state_dict"]
    weights["quant_conv.bias"] = weights["quant_conv.bias"].long()
    torch.save(weights, ckpt)
    told = r"1 that should be floating point: quant_conv\.bias is torch\.int64"
    for strict in (True, False):
        with pytest.raises(ValueError, match=told):
            VQGAN.from_taming(ckpt, config, strict=strict)


@pytest.mark.filterwarnings("ignore:.*TorchScript archive", "ignore:.*torch.jit")
def test_a_torchscript_archive_is_refused_without_bad_advice(tmp_path) -> None:
    ckpt, config = files.small(tmp_path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), ckpt)
    with pytest.raises(ValueError, match=r"or no checkpoint: .*TorchScript") as raised:
        VQGAN.from_taming(ckpt, config)
    assert "False" not in str(raised.value)


def test_a_bare_state_dict_and_safetensors(tmp_path) -> None:
    from safetensors.torch import save_file

    ckpt, config = files.small(tmp_path)
    weights = torch.load(ckpt)["state_dict"]
    torch.save(weights, tmp_path / "bare.pt")
    save_file(dict(weights), tmp_path / "weights.safetensors")
    for name in ("bare.pt", "weights.safetensors"):
        loaded = VQGAN.from_taming(tmp_path / name, config).state_dict()
        assert all(torch.equal(loaded[k], v) for k, v in weights.items())
    (tmp_path / "weights.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        VQGAN.from_taming(tmp_path / "weights.safetensors", config)


def test_files_that_are_not_there(tmp_path) -> None:
    ckpt, config = files.small(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*gone\.ckpt"):
        VQGAN.from_taming(tmp_path / "gone.ckpt", config)
    with pytest.raises(FileNotFoundError, match=r"no configuration file .*gone\.yaml"):
        VQGAN.from_taming(ckpt, tmp_path / "gone.yaml")
