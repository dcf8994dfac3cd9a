"""The second stage against the reference, its random codes, its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import taming_peer
import torch
from tiny_vqgan import tiny_vqgan
from torch.nn import functional as F

from vqgan_fast.models.condition_files import build_condition
from vqgan_fast.models.conditions import CombinedCondition, LabelCondition, SOSCondition
from vqgan_fast.models.gpt import GPT
from vqgan_fast.models.latent_transformer import LatentTransformer
from vqgan_fast.models.map_conditions import CodesCondition, CoordinateCondition
from vqgan_fast.models.vqgan import VQGAN

GPT_CONFIG = {"vocab_size": 20, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16}


def make(pkeep: float = 1.0, token: int = 3) -> LatentTransformer:
    first_stage = tiny_vqgan(20)
    return LatentTransformer(first_stage, SOSCondition(token), GPT(**GPT_CONFIG), pkeep)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_logits_and_target_equal_the_references(images: torch.Tensor) -> None:
    ours = make()
    first_stage = dict(ours.first_stage_model.config)
    for name in ("beta", "legacy", "quantizer", "quantizer_options"):
        first_stage.pop(name)
    reference = taming_peer.latent_transformer(first_stage, GPT_CONFIG, sos_token=3)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in reference.state_dict().items()
    }
    reference.load_state_dict(ours.state_dict())
    logits, target = ours(images)
    expected_logits, expected_target = reference(images, images)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-5, atol=1e-6)
    assert torch.equal(target, expected_target)
    assert logits.shape == (3, 16, 20)


def test_images_and_their_codes_give_the_same(images: torch.Tensor) -> None:
    model = make()
    codes = model.encode_to_codes(images)
    assert codes.shape == (3, 4, 4)
    for x in (codes, codes.flatten(1)):
        assert all(map(torch.equal, model(images), model(x)))


def test_a_code_is_predicted_from_those_before_it() -> None:
    model = make().eval()
    codes = torch.arange(16)[None]
    logits, target = model(codes)
    assert torch.equal(target, codes)
    changed = codes.clone()
    changed[:, 7] = 19
    difference = (model(changed)[0] - logits).abs().amax(-1)[0]
    assert (difference[:8] == 0).all()
    assert (difference[8:] > 0).all()


def test_codes_do_not_depend_on_autocast() -> None:
    model = make()
    images = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = model.first_stage_model.encode_indices(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(model.first_stage_model.encode_indices(images), expected)
        assert torch.equal(model.encode_to_codes(images), expected)


def test_first_stage_stays_frozen(images: torch.Tensor) -> None:
    model = make().train()
    assert model.transformer.training
    assert not any(module.training for module in model.first_stage_model.modules())
    logits, target = model(images)
    F.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
    assert all(p.grad is None for p in model.first_stage_model.parameters())
    assert all(p.grad is not None for p in model.transformer.parameters())
    assert not model.eval().transformer.training


def test_pkeep_replaces_reproducibly(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(pkeep=0.7).train()
    codes = torch.randint(20, (400, 16))
    seen = []
    monkeypatch.setattr(
        model.transformer, "forward", lambda tokens, **_: seen.append(tokens) or tokens
    )
    for seed in (0, 0, 1):
        _, target = model(codes, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(target, codes)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert (seen[0][:, 0] == 3).all()
    # A random code is the old one once in 20 times. 6000 draws: 4 standard deviations are 0.024.
    kept = (seen[0][:, 1:] == codes[:, :-1]).float().mean()
    assert abs(kept - (0.7 + 0.3 / 20)) < 0.024
    model.eval()
    model(codes)
    assert torch.equal(seen[3][:, 1:], codes[:, :-1])


def test_pkeep_zero_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(pkeep=0.0).train()
    seen = []
    monkeypatch.setattr(
        model.transformer, "forward", lambda tokens, **_: seen.append(tokens) or tokens
    )
    codes = torch.zeros(100, 16, dtype=torch.int64)
    model(codes, generator=torch.Generator().manual_seed(0))
    assert (seen[0][:, 1:] != 0).float().mean() > 0.9


def test_save_and_load(tmp_path: Path, images: torch.Tensor) -> None:
    model = make(pkeep=0.5, token=7).eval()
    model.save_pretrained(tmp_path)
    loaded = LatentTransformer.from_pretrained(tmp_path)
    assert loaded.config == {"condition": {"name": "sos", "token": 7}, "pkeep": 0.5}
    assert not loaded.training
    assert all(map(torch.equal, loaded(images), model(images)))
    assert torch.equal(VQGAN.from_pretrained(tmp_path / "vqgan")(images)[0],
                       model.first_stage_model(images)[0])  # fmt: skip


def test_the_grid_of_the_training_is_saved(tmp_path: Path) -> None:
    model = make()
    assert model.grid is None
    LatentTransformer(
        model.first_stage_model, model.cond_stage_model, model.transformer, grid=(3, 5)
    ).save_pretrained(tmp_path)
    assert LatentTransformer.from_pretrained(tmp_path).grid == (3, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"condition": "sos"}, r"condition must be a mapping with a name, got 'sos'"),
        ({"condition": None}, "condition must be a mapping with a name, got None"),
        (
            {"condition": {}},
            r"condition must be one of \['codes', .*'sos'\], got None",
        ),
        (
            {"condition": {"name": ["sos"]}},
            r"condition must be one of \['codes', .*'sos'\], got \['sos'\]",
        ),
        ({"condition": {"name": "sos", "tokens": 1}}, "unexpected keyword argument 'tokens'"),
        ({"condition": {"name": "sos", "token": 1.5}}, r"token must be an integer, got 1\.5"),
        ({"pkeep": "all"}, "pkeep must be a finite number, got 'all'"),
        ({"null_token": 2.5}, r"null_token must be an integer, got 2\.5"),
        ({"null_token": -1}, "null_token must be at least 0, got -1"),
        ({"grid": 4}, r"grid must be \(H, W\) in codes, got 4"),
        ({"pkeep": 2}, r"pkeep must lie in \[0, 1\], got 2"),
        ({"grid": [4]}, r"grid must be \(H, W\) in codes, got \[4\]"),
        ({"grid": [4, 0]}, "grid must be at least 1, got 0"),
        ({"no_such_argument": 1}, "unexpected keyword argument 'no_such_argument'"),
    ],
)
def test_config_that_does_not_fit(tmp_path: Path, change: dict, message: str) -> None:
    make().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=rf"config\.json does not fit its model: .*{message}"):
        LatentTransformer.from_pretrained(tmp_path)


def test_the_codes_to_be_predicted_cannot_be_left_unmasked() -> None:
    first_stage = tiny_vqgan(20)
    LatentTransformer(first_stage, SOSCondition(), GPT(**GPT_CONFIG, n_unmasked=1))
    with pytest.raises(ValueError, match="n_unmasked of at most 1, the condition's tokens, got 2"):
        LatentTransformer(first_stage, SOSCondition(), GPT(**GPT_CONFIG, n_unmasked=2))


def test_bad_input(images: torch.Tensor) -> None:
    model = make(pkeep=0.5).train()
    with pytest.raises(ValueError, match="generator must be given in training with pkeep < 1"):
        model(images)
    model = make()
    with pytest.raises(ValueError, match="x must be floating-point images or int64 codes"):
        model(images.to(torch.uint8))
    with pytest.raises(ValueError, match=r"x must be codes \(B, h, w\) .* got \(16,\)"):
        model(torch.zeros(16, dtype=torch.int64))
    with pytest.raises(ValueError, match="condition_input must be None"):
        model(images, condition_input=images)
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 20\), got 20"):
        model(torch.full((1, 4), 20))
    with pytest.raises(ValueError, match="block_size = 16"):
        model(torch.zeros(1, 17, dtype=torch.int64))
    for x, kind in (([[1, 2]], "builtins.list"), (None, "None"), (images.numpy(), "numpy.nd")):
        for call in (model, model.encode_to_codes):
            with pytest.raises(TypeError, match=rf"x must be a torch\.Tensor, got {kind}"):
                call(x)
    with pytest.raises(
        TypeError, match=r"condition_input must be a torch\.Tensor, got builtins\.l"
    ):
        LabelCondition(3)(2, "cpu", [0, 1])
    for given, told in ((3, "int"), (None, "NoneType"), (torch.zeros(2), "Tensor"), ([3], "1")):
        with pytest.raises(ValueError, match=rf"an input for each of 2 conditions, got {told}"):
            CombinedCondition([LabelCondition(3)] * 2)(2, "cpu", given)
    for condition in (CodesCondition(model.first_stage_model, {}), CoordinateCondition()):
        with pytest.raises(TypeError, match=r"condition_input must be a torch\.Tensor, got buil"):
            condition(2, "cpu", [0, 1])
    with pytest.raises(ValueError, match=r"pkeep must lie in \[0, 1\], got 1.5"):
        make(pkeep=1.5)
    with pytest.raises(ValueError, match=r"vocab_size of at least 31.*got 20"):
        make(token=30)
    with pytest.raises(ValueError, match="token must be at least 0, got -1"):
        SOSCondition(-1)
    with pytest.raises(
        ValueError,
        match=r"one of \['codes', .*'sos'\], got 'class'",
    ):
        build_condition({"name": "class"})
