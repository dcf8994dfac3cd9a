"""Logits of a conditional model against the reference's GPT, with the same weights."""

from __future__ import annotations

import pytest
import taming_peer
import torch
from tiny_vqgan import tiny_vqgan

from vqgan_fast.models import (
    GPT,
    CodesCondition,
    CombinedCondition,
    CoordinateCondition,
    LabelCondition,
    LatentTransformer,
)

CELLS = 16
MAPS, PLACES = torch.randn(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
LABELS = torch.tensor([3, 18])


@pytest.mark.parametrize("n_unmasked", [0, 1, 9, "all"])
@pytest.mark.parametrize("kind", ["class", "coordinates", "codes", "combined"])
def test_logits_equal_the_references(kind, n_unmasked):
    depth = tiny_vqgan(channels=1)
    condition, given = {
        "class": (LabelCondition(20), LABELS),
        "coordinates": (CoordinateCondition(20, factor=2), PLACES),
        "codes": (CodesCondition(depth, {}), MAPS),
        "combined": (
            CombinedCondition([LabelCondition(20), CodesCondition(depth, {})]), (LABELS, MAPS),
        ),
    }[kind]  # fmt: skip
    length = condition.length(CELLS)
    unmasked = length if n_unmasked == "all" else min(n_unmasked, length)
    config = {"vocab_size": 20, "block_size": length + CELLS, "n_layer": 2, "n_head": 2,
              "n_embd": 32, "n_unmasked": unmasked}  # fmt: skip
    gpt = GPT(**config)
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    peer = taming_peer.gpt_class()(**config).eval()
    peer.load_state_dict(gpt.state_dict())
    model = LatentTransformer(tiny_vqgan(), condition, gpt).eval()
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    from taming.modules.misc.coord import CoordStage

    # The tokens as the reference makes them, one part behind the other.
    tokens = {
        "class": LABELS[:, None],
        "coordinates": CoordStage(20, 2).encode(PLACES)[2][2],
        "codes": depth.encode_indices(MAPS),
    }
    tokens["combined"] = torch.cat([tokens["class"], tokens["codes"].flatten(1)], dim=1)
    with torch.no_grad():
        logits, codes = model(images, given)
        sequence = torch.cat([tokens[kind].flatten(1), codes], dim=1)
        expected = peer(sequence[:, :-1])[0][:, length - 1 :]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert logits.std() > 0.5


def test_a_saved_model_has_its_conditions_again(tmp_path):
    parts = [
        CodesCondition(tiny_vqgan(channels=1), {"kind": "depth"}, "condition_0"),
        LabelCondition(3, ["a", "b", "c"]),
    ]  # fmt: skip
    gpt = GPT(21, 33 + 16, n_layer=1, n_head=1, n_embd=8)
    model = LatentTransformer(tiny_vqgan(), CombinedCondition(parts), gpt, null_token=20).eval()
    model.save_pretrained(tmp_path)
    again = LatentTransformer.from_pretrained(tmp_path)
    assert again.config == model.config
    given = (MAPS, torch.tensor([2, 0]))
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(model(images, given)[0], again(images, given)[0])
    dropped = again.dropped(again.cond_stage_model(2, "cpu", given))
    assert all((part == 20).all() for part in dropped)
    assert [part.shape for part in dropped] == [(2, 4, 4), (2, 1)]


def test_what_does_not_fit_is_refused():
    codes, places = CodesCondition(tiny_vqgan(channels=1), {}), CoordinateCondition(factor=2)
    for stage, given, message in (
        (codes, None, "condition_input must be maps .* got None"),
        (codes, MAPS.expand(2, 3, 8, 8), r"maps \(2, 1, height, width\), got \(2, 3, 8, 8\)"),
        (places, PLACES[..., 1:], r"multiples of 2, got \(2, 1, 8, 7\)"),
        (CombinedCondition([codes, places]), (MAPS,), "an input for each of 2 conditions, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            stage(2, "cpu", given)
    with pytest.raises(ValueError, match="parts must hold at least one condition"):
        CombinedCondition([])
    model = LatentTransformer(tiny_vqgan(), LabelCondition(3), GPT(16, 17, 1, 1, 8))
    with pytest.raises(ValueError, match="was not trained to do without its condition"):
        model.dropped(torch.zeros(1, 1, dtype=torch.int64))
