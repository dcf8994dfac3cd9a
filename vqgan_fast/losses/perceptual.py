"""LPIPS perceptual distance (Zhang et al., CVPR 2018), built on the `lpips` package.

The package ships the calibrated 1x1 linear weights; the backbone's ImageNet weights are a separate
download of torchvision's (VGG16: 528 MB). Where they cannot be had, random features of the same
network are a usable, weaker stand-in: `PerceptualLoss.description` always says which one runs.
"""

from __future__ import annotations

import pickle
import urllib.request
import warnings
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn

# lpips name -> torchvision name
BACKBONES = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}
# Pixels on each side that leave every layer of a backbone something.
SMALLEST_SIDES = {"vgg": 16, "alex": 31, "squeeze": 17}
WEIGHTS = ("pretrained", "random", "auto")
PROBE_SECONDS = 10


class PerceptualWeightsError(RuntimeError):
    """The pretrained backbone of the perceptual loss is not here and cannot be fetched."""


class PerceptualLoss(nn.Module):
    """LPIPS between two batches of images: frozen, always in eval mode.

    Features of both images are normalised over channels at every pixel of five layers (seven for
    "squeeze"), and their squared differences weighted, summed over channels and averaged over
    pixels. Gradients reach `x_hat` only.

    Args:
        net: backbone, "vgg" (what the VQGAN paper trains with), "alex" or "squeeze".
        weights: "pretrained" needs the ImageNet backbone; "random" draws the backbone from `seed`
            and leaves the global random state as it was; "auto" takes the pretrained one if it can
            be had and otherwise warns and takes the random one.
        seed: seed of the random backbone.

    Raises:
        PerceptualWeightsError: "pretrained", and the weights are neither on disk nor reachable.
        ValueError: unknown `net` or `weights`.
    """

    def __init__(self, net: str = "vgg", weights: str = "pretrained", seed: int = 0) -> None:
        super().__init__()
        if net not in BACKBONES:
            raise ValueError(f"net must be one of {', '.join(BACKBONES)}, got {net!r}")
        if weights not in WEIGHTS:
            raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
        if weights == "auto":
            try:
                self.lpips = _pretrained_lpips(net)
                weights = "pretrained"
            except PerceptualWeightsError as error:
                warnings.warn(
                    f"the perceptual loss uses RANDOM {net} features, not the pretrained ones: "
                    f"{error}",
                    UserWarning,
                    stacklevel=2,
                )
                self.lpips = _random_lpips(net, seed)
                weights = "random"
        elif weights == "pretrained":
            self.lpips = _pretrained_lpips(net)
        else:
            self.lpips = _random_lpips(net, seed)
        self.smallest_side = SMALLEST_SIDES[net]
        self.description = (
            f"LPIPS, {BACKBONES[net]} backbone pretrained on ImageNet"
            if weights == "pretrained"
            else f"LPIPS, {BACKBONES[net]} backbone with random features (seed {seed})"
        )
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Stays in eval mode whatever `mode` is: its dropout must never run."""
        return super().train(False)

    def forward(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Distance of each pair: x, x_hat (B, 3 or 1, H, W) in [-1, 1] -> (B, 1, 1, 1).

        Raises:
            ValueError: two shapes, another number of channels, or a side too small for the network.
        """
        if x.shape != x_hat.shape:
            raise ValueError(
                f"x and x_hat must have the same shape, got {tuple(x.shape)} and "
                f"{tuple(x_hat.shape)}"
            )
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"x must be (B, 3, H, W) or (B, 1, H, W), got {tuple(x.shape)}")
        if min(x.shape[2:]) < self.smallest_side:
            raise ValueError(
                f"x must be at least {self.smallest_side} pixels on each side for this backbone, "
                f"got {x.shape[2]} x {x.shape[3]}"
            )
        return self.lpips(x.detach(), x_hat)

    def extra_repr(self) -> str:
        return self.description


def _lpips_package():
    try:
        import lpips
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "PerceptualLoss needs the lpips package: pip install 'vqgan_fast[train]', "
            "or set perceptual_weight: 0"
        ) from error
    return lpips


def _build(net: str, pnet_rand: bool) -> nn.Module:
    lpips = _lpips_package()
    with warnings.catch_warnings():
        # lpips calls torchvision by arguments that are deprecated there: nothing a user can mend.
        warnings.filterwarnings("ignore", module=r"torchvision\.models\._utils")
        return lpips.LPIPS(net=net, pnet_rand=pnet_rand, verbose=False)


def _random_lpips(net: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _build(net, pnet_rand=True)


def _pretrained_lpips(net: str) -> nn.Module:
    _lpips_package()
    from torchvision.models import get_model_weights

    # lpips asks torchvision for `pretrained=True`, which means this entry of its weights table.
    url = get_model_weights(BACKBONES[net])["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.exists():
        _require_reachable(url, net, path)
    try:
        return _build(net, pnet_rand=False)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise PerceptualWeightsError(
            f"the {net} backbone could not be loaded from {path}: {error}\n"
            f"Remove the file if it is damaged. {_advice(url, path)}"
        ) from error


def _require_reachable(url: str, net: str, path: Path) -> None:
    """Asks for the file's header first: torch hub's own download has no time limit."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS
        ):
            pass
    except (OSError, HTTPException) as error:
        raise PerceptualWeightsError(
            f"the pretrained {net} backbone is not at {path} and cannot be fetched ({error}).\n"
            f"{_advice(url, path)}"
        ) from error


def _advice(url: str, path: Path) -> str:
    return (
        f"Fetch {url} on a machine with a network and put it at {path} (the folder follows "
        "TORCH_HOME), or take random features: perceptual_weights: random of a configuration's "
        "loss, --lpips-weights random of `evaluate`."
    )
