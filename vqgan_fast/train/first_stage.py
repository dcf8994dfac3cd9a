"""Finding the VQGAN that a transformer is trained on."""

from __future__ import annotations

from pathlib import Path

from vqgan_fast.models import VQGAN, ColourCodes, latent_transformer

from .config import ConfigError


def load_first_stage(path: str, key: str = "first_stage") -> VQGAN | ColourCodes:
    """The first stage of a run's folder, or of a folder that its `save_pretrained` wrote.

    Args:
        path: the folder.
        key: of the configuration, that the path stands at.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    folder = Path(path)
    exported = folder / "vqgan"
    try:
        return latent_transformer.load_first_stage(exported if exported.is_dir() else folder)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(
            f"{key} = {path} holds no VQGAN that can be read: {error}; expected the run "
            "folder of a VQGAN with a checkpoint, or a folder that its save_pretrained wrote"
        ) from error
