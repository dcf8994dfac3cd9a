"""A classifier as a score for rejection sampling: how sure it is of the class (Section 4.4 of Esser
et al. 2021, after Razavi et al., "Generating diverse high-fidelity images with VQ-VAE-2", 2019)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.evaluating import evaluating

# Of ImageNet, for values in [0, 1]: what torchvision's classifiers are trained with.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
# As torchvision's files of DenseNets name weights, which its classes call norm1 and conv2, say.
DENSE_LAYER = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")


class ClassifierWeightsError(RuntimeError):
    """The weights of a classifier are missing or do not fit; the message says what to do."""


def classifier_score(
    classifier: nn.Module, label: int, *, size: int = 224
) -> Callable[[Tensor], Tensor]:
    """A score for :func:`sample_best`: the log-probability that a classifier gives to a class.

    Args:
        classifier: pictures (N, 3, size, size), normalised as ImageNet's -> logits (N, classes).
        label: the class.
        size: side of the pictures that it takes; others are resized (bilinear, antialiased).

    Returns:
        images (N, 3, H, W) in [-1, 1] -> (N,) natural logarithms of probabilities.

    Raises:
        ValueError: on a call, when the classifier has no such class.
    """

    @torch.no_grad()
    def score(images: Tensor) -> Tensor:
        parameter = next(classifier.parameters(), images)
        pixels = (images.to(parameter) + 1) / 2
        if pixels.shape[2:] != (size, size):
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        mean, deviation = (pixels.new_tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
        with evaluating(classifier):
            logits = classifier((pixels - mean) / deviation)
        if not 0 <= label < logits.shape[1]:
            raise ValueError(
                f"label must be one of the classifier's {logits.shape[1]} classes, got {label}"
            )
        return logits.double().log_softmax(1)[:, label]

    return score


def load_classifier(name: str, weights: str | os.PathLike[str]) -> nn.Module:
    """A classifier of torchvision with weights of a file, in eval mode. Nothing is fetched.

    Args:
        name: torchvision's, such as "resnet101".
        weights: a state dict, as torch.save writes it; only tensors are read.

    Raises:
        ClassifierWeightsError: the file is missing, damaged, or of another network.
        ValueError: torchvision has no such classifier.
        ModuleNotFoundError: torchvision is not installed.
    """
    try:
        from torchvision import models
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a classifier needs torchvision: pip install torchvision"
        ) from error
    if name not in models.list_models(module=models):
        raise ValueError(
            f"name must be a classifier of torchvision, such as resnet101, got {name!r}"
        )
    path = Path(weights)
    # Weights for larger pictures may be those of a network that is built for these alone.
    usual = min(models.get_model_weights(name), key=lambda entry: entry.meta["min_size"])
    advice = f"Fetch {usual.url} on a machine with a network, or give weights of your own."
    if not path.is_file():
        raise ClassifierWeightsError(f"there is no file of weights {path}. {advice}")
    state = _read_weights(path, advice)
    try:
        state = {DENSE_LAYER.sub(r"\1\2", key): value for key, value in state.items()}
        # A classifier ends with a layer that has an entry for each class.
        num_classes = len(list(state.values())[-1])
        classifier = models.get_model(name, weights=None, num_classes=num_classes)
        classifier.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise ClassifierWeightsError(
            f"{path} holds no weights of torchvision's {name}: {reason} {advice}"
        ) from error
    return classifier.eval()


def _read_weights(path: Path, advice: str) -> dict[str, Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways, KeyError among them
        reason = str(error).splitlines() or [type(error).__name__]
        raise ClassifierWeightsError(
            f"{path} holds no weights that can be read: {reason[0]} {advice}"
        ) from error
