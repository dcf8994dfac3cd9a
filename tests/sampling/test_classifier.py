"""Rejection sampling by a classifier."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from vqgan_fast.sampling import (
    ClassifierWeightsError,
    classifier_score,
    load_classifier,
    sample_best,
)
from vqgan_fast.sampling import best as best_module


class MeanClassifier(nn.Module):
    """Three classes whose logits are the channels' means; refuses other sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        assert x.shape[1:] == (3, 8, 8)
        assert not self.training
        return self.scale * self.norm(x).mean((2, 3))


def test_the_score_is_the_log_probability_of_normalised_pictures():
    classifier = MeanClassifier().train()
    images = torch.rand(4, 3, 16, 12) * 2 - 1
    found = classifier_score(classifier, 1, size=8)(images)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    small = nn.functional.interpolate((images + 1) / 2, (8, 8), mode="bilinear", antialias=True)
    logits = 3 * (small.mean((2, 3)) - mean) / deviation
    torch.testing.assert_close(found.float(), logits.softmax(1)[:, 1].log(), rtol=1e-4, atol=1e-4)
    assert classifier.training
    assert not found.requires_grad
    with pytest.raises(ValueError, match="label must be one of the classifier's 3 classes, got 3"):
        classifier_score(classifier, 3, size=8)(images)


def test_each_condition_has_its_own_score_and_the_rate_is_told(monkeypatch):
    """Two conditions, whose best candidates are the lightest and the darkest."""
    shade = torch.linspace(-1, 1, 8)

    def sample(model, cond, grid, seeds, **_):
        images = shade[seeds % 8].view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
        codes = seeds.view(-1, 1, 1)
        return images, codes, -codes.float()

    monkeypatch.setattr(best_module, "sample", sample)
    monkeypatch.setattr(best_module, "pack", lambda *_: None)
    parts = ("transformer", "first_stage_model", "cond_stage_model")
    model = type("Model", (), dict.fromkeys(parts))()
    light = lambda images: images.mean((1, 2, 3))  # noqa: E731
    best = sample_best(
        model, torch.tensor([[0], [1]]), candidates=8, keep=2, batch=3, seeds=[0, 8],
        score=[light, lambda images: -light(images)],
    )  # fmt: skip
    assert best.seeds.tolist() == [[7, 6], [8, 9]]
    assert best.acceptance_rate == 0.25
    with pytest.raises(ValueError, match="one for each of the 2 conditions, got 1"):
        sample_best(model, torch.tensor([[0], [1]]), score=[light])


def test_weights_of_a_file(tmp_path):
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    network = squeezenet1_1(num_classes=5).eval()
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    loaded = load_classifier("squeezenet1_1", path)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded(images), network(images))
    assert not loaded.training
    with pytest.raises(ClassifierWeightsError, match="holds no weights of torchvision's resnet18"):
        load_classifier("resnet18", path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ClassifierWeightsError, match=r"weights.pth holds no .*Fetch https://"):
        load_classifier("squeezenet1_1", path)
    path.write_bytes(b"\x80\x02h\x07.")  # asks for what was never put: a KeyError
    with pytest.raises(ClassifierWeightsError, match=r"weights.pth holds no .*Fetch https://"):
        load_classifier("squeezenet1_1", path)
    with pytest.raises(ClassifierWeightsError, match=r"there is no file of weights .*no.pth"):
        load_classifier("squeezenet1_1", tmp_path / "no.pth")
    with pytest.raises(ValueError, match=r"name must be a classifier of .*, got 'resnet1'"):
        load_classifier("resnet1", path)


def test_every_classifier_of_torchvision_has_weights_to_fetch(tmp_path):
    from torchvision import models

    for name in models.list_models(module=models):
        with pytest.raises(ClassifierWeightsError, match=r"Fetch https://\S+\.pth on"):
            load_classifier(name, tmp_path / "no.pth")
    with pytest.raises(ClassifierWeightsError, match="resnet101-63fe2227"):
        load_classifier("resnet101", tmp_path / "no.pth")
    with pytest.raises(ClassifierWeightsError, match="vit_h_14_lc_swag"):  # of 224 pixels
        load_classifier("vit_h_14", tmp_path / "no.pth")


def test_a_densenet_may_have_the_names_of_torchvisions_files(tmp_path):
    from torchvision.models import densenet121

    network = densenet121(num_classes=5)
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])")
    state = {old.sub(r"\1.\2", key): value for key, value in network.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "weights.pth")
    loaded = load_classifier("densenet121", tmp_path / "weights.pth").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in network.state_dict().items())
