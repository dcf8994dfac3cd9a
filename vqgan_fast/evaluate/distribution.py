"""Distances between two sets of pictures, FID and the inception score, by torch-fidelity.

Both need the InceptionV3 of the original FID (Heusel et al. 2017; inception score: Salimans et al.
2016); torch-fidelity has its weights in PyTorch's format as a download.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import torch

INCEPTION = "inception-v3-compat"
SPLITS = 10  # of the inception score, as in Salimans et al.


class MetricWeightsError(RuntimeError):
    """The network that FID compares features of is not here."""


def distribution_metrics(
    pictures: str | os.PathLike[str],
    real: str | os.PathLike[str],
    *,
    inception_score: bool = False,
    weights: str | os.PathLike[str] | None = None,
    extractor: str = INCEPTION,
    device: torch.device | str = "cpu",
    batch_size: int = 32,
) -> dict[str, float]:
    """FID between two folders of PNG pictures; optionally the inception score of the first.

    Args:
        pictures: generated or reconstructed ones.
        real: what they are compared with.
        inception_score: also the inception score of `pictures`, mean and deviation over SPLITS.
        weights: file of the network's weights; None looks in torch hub's cache.
        extractor: a feature extractor registered with torch-fidelity.
        device: where features are computed.

    Returns:
        fid, and inception_score, inception_score_std if asked for.

    Raises:
        MetricWeightsError: the weights are missing or damaged; the message says where from and to.
        ModuleNotFoundError: torch-fidelity is not installed.
        ValueError: a folder holds fewer pictures than that needs.
    """
    torch_fidelity = _fidelity_package()
    for folder in (pictures, real):
        check_count(sum(1 for _ in Path(folder).glob("*.png")), folder)
    if inception_score:
        check_count(sum(1 for _ in Path(pictures).glob("*.png")), pictures, inception_score=True)
    path = str(inception_weights(weights)) if extractor == INCEPTION else None
    figures = torch_fidelity.calculate_metrics(
        input1=str(pictures),
        input2=str(real),
        fid=True,
        isc=inception_score,
        isc_splits=SPLITS,
        feature_extractor=extractor,
        feature_extractor_weights_path=path,
        cuda=torch.device(device).type == "cuda",
        batch_size=batch_size,
        cache=False,
        save_cpu_ram=(os.cpu_count() or 1) < 8,  # its four reading processes want cores
        verbose=False,
    )
    result = {"fid": figures["frechet_inception_distance"]}
    if inception_score:
        result["inception_score"] = figures["inception_score_mean"]
        result["inception_score_std"] = figures["inception_score_std"]
    return {name: float(value) for name, value in result.items()}


def check_count(
    count: int, folder: str | os.PathLike[str], *, inception_score: bool = False
) -> None:
    """ValueError if so many pictures are too few for a FID, or for the inception score."""
    least, what = (SPLITS, "the inception score") if inception_score else (2, "FID")
    if count < least:
        raise ValueError(f"{what} needs at least {least} pictures, got {count} in {folder}")


def inception_weights(weights: str | os.PathLike[str] | None = None) -> Path:
    """The file of the InceptionV3's weights, after a look at it: torch-fidelity runs pickled code.

    Args:
        weights: the file; None is torch hub's cache.

    Raises:
        MetricWeightsError: it is missing or damaged; the message says where from and where to.
        ModuleNotFoundError: torch-fidelity is not installed.
    """
    _fidelity_package()
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    name = URL_INCEPTION_V3.rsplit("/", 1)[1]
    path = Path(torch.hub.get_dir(), "checkpoints", name) if weights is None else Path(weights)
    advice = (
        f"Fetch {URL_INCEPTION_V3} on a machine with a network and put it at {path} (the folder "
        "follows TORCH_HOME), or name it with --inception-weights; or leave the metric out."
    )
    if not path.is_file():
        raise MetricWeightsError(f"the InceptionV3 of FID is not at {path}. {advice}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways, KeyError among them
        reason = str(error).splitlines() or [type(error).__name__]
        raise MetricWeightsError(
            f"{path} cannot be read as weights: {reason[0]}. {advice}"
        ) from error
    if not isinstance(state, dict) or "Conv2d_1a_3x3.conv.weight" not in state:
        raise MetricWeightsError(f"{path} does not hold torch-fidelity's InceptionV3. {advice}")
    return path


def _fidelity_package() -> ModuleType:
    try:
        import torch_fidelity
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "FID and the inception score need the torch-fidelity package: "
            "pip install 'vqgan_fast[train,evaluate]'"
        ) from error
    return torch_fidelity
