"""Maps that go with a picture, to condition on: labels, depth, edges, a smaller picture, place.

A map is made for one crop of a picture at a time: `crop` returns it as an array (S, S, C) in a
compact type, `to_model` turns a batch of those into what a VQGAN takes, `draw` into pictures to
look at. Where they come from and their values are the reference's (Esser et al. 2021, Section 4.2).
"""

from __future__ import annotations

import colorsys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .images import DataError, PictureFile, decoded, upright
from .places import place_of
from .stream import View, to_model_range, to_pixels


class CropMap(ABC):
    """One kind of map. `channels`: those of `to_model`'s result."""

    channels: int

    @abstractmethod
    def crop(self, index: int, picture: np.ndarray, view: View) -> np.ndarray:
        """The map (S, S, C) of a crop.

        Args:
            index: of the picture among the stream's files.
            picture: uint8 (height, width, 3), resized as the stream is told to.
            view: the crop.
        """

    def content(self) -> Iterable[str]:
        """What goes with the pictures, in words that change with it; none for what is made of
        them. Machines that train together compare it, as they may have copies."""
        return ()

    def to_model(self, maps: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Maps (B, C, S, S) as `crop` gives them -> (B, channels, S, S) floats on the device."""
        return to_model_range(maps, device)

    def draw(self, x: Tensor) -> Tensor:
        """uint8 pictures (B, 3, S, S) on the CPU of x as `to_model` gives it, or a VQGAN does."""
        pixels = to_pixels(x)
        return pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels


class FileMap(CropMap):
    """A map that is a file beside each picture, of the picture's size.

    Args:
        files: one for each picture of the stream; files, or members of shards.
    """

    resampling = Image.Resampling.BILINEAR

    def __init__(self, files: Sequence[PictureFile]) -> None:
        self.files = files
        self._kept: dict[int, Image.Image] | None = None

    def content(self) -> Iterator[str]:
        """The names of the files, without folders: they may move."""
        return (place_of(file).name for file in self.files)

    def keep(self) -> None:
        """From now on hold each map in memory once it was read."""
        self._kept = {}

    @abstractmethod
    def read(self, file: PictureFile) -> Image.Image:
        """The whole map, one channel.

        Raises:
            UnreadableImageError: the file cannot be decoded.
            DataError: the file cannot be read at the moment; what it holds is no such map; the
                shard that holds it was changed. The file is named.
        """

    def crop(self, index: int, picture: np.ndarray, view: View) -> np.ndarray:
        return view.cut(np.asarray(self._whole(index, picture))[..., None])

    def _whole(self, index: int, picture: np.ndarray) -> Image.Image:
        """The map of a picture, as large as that is."""
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        whole = self.read(self.files[index])
        size = (picture.shape[1], picture.shape[0])
        if whole.size != size:
            whole = whole.resize(size, self.resampling)
        if self._kept is not None:
            self._kept[index] = whole
        return whole


class Segmentation(FileMap):
    """Labels, one byte a pixel; for the model one-hot (n_labels, S, S), values 0 and 1.

    Args:
        files: single-channel PNGs.
        n_labels: labels are 0 ... n_labels - 1.
        shift: added to each byte of a file, modulo 256: with 1, the 255 of unlabelled pixels
            becomes label 0, as for COCO-Stuff with its 183 labels.

    Raises:
        ValueError: n_labels is not in [1, 256].
    """

    resampling = Image.Resampling.NEAREST

    def __init__(self, files: Sequence[PictureFile], n_labels: int, shift: int = 0) -> None:
        super().__init__(files)
        if not 1 <= n_labels <= 256:
            raise ValueError(f"n_labels must lie in [1, 256], got {n_labels}")
        self.n_labels, self.shift = n_labels, shift

    @property
    def channels(self) -> int:  # type: ignore[override]
        return self.n_labels

    def read(self, file: PictureFile) -> Image.Image:
        image = _open(file)
        if image.mode not in ("L", "P"):
            raise DataError(f"{file} must have one byte a pixel, a label, got mode {image.mode}")
        labels = np.asarray(image) + np.uint8(self.shift % 256)
        if labels.max() >= self.n_labels:
            raise DataError(
                f"{file} holds label {labels.max()}; with n_labels = {self.n_labels} they must "
                f"lie in [0, {self.n_labels - 1}]"
            )
        return Image.fromarray(labels)

    def to_model(self, maps: Tensor, device: torch.device | str = "cpu") -> Tensor:
        labels = maps[:, 0].to(device, torch.int64)
        one_hot = F.one_hot(labels, self.n_labels).movedim(-1, 1)
        return one_hot.to(torch.get_default_dtype())

    def draw(self, x: Tensor) -> Tensor:
        return self._palette()[x.argmax(1).cpu()].movedim(-1, 1)

    def _palette(self) -> Tensor:
        """(n_labels, 3) uint8: hues a golden section apart, label 0 dark."""
        colours = [(0.1, 0.1, 0.1)]
        for label in range(1, self.n_labels):
            hue = label * 0.618034 % 1
            colours.append(
                colorsys.hsv_to_rgb(hue, (0.85, 0.5)[label % 2], (1, 0.75)[label % 3 % 2])
            )
        return torch.tensor(colours).mul(255).round().to(torch.uint8)


class Depth(FileMap):
    """Depth of any scale, min-max normalised to [-1, 1] for each picture; one channel.

    Files: a four-channel 8-bit PNG whose four bytes are one little-endian float32, or any
    single-channel picture (8 or 16 bits, or float TIFF).
    """

    channels = 1

    def read(self, file: PictureFile) -> Image.Image:
        image = _open(file)
        pixels = np.asarray(image)
        if image.mode == "RGBA":
            pixels = np.ascontiguousarray(pixels).view("<f4")[..., 0]
        if pixels.ndim != 2:
            raise DataError(
                f"{file} must have one channel, or four bytes that are a float, got {image.mode}"
            )
        depth = pixels.astype(np.float32)
        low, high = depth.min(), depth.max()
        if not np.isfinite(high - low):  # also where a NaN is
            raise DataError(f"{file} holds a depth that is not finite")
        return Image.fromarray((depth - low) / max(high - low, np.finfo(np.float32).tiny))

    def to_model(self, maps: Tensor, device: torch.device | str = "cpu") -> Tensor:
        return maps.to(device, torch.get_default_dtype()).mul(2).sub(1)


class Edges(CropMap):
    """Canny's edges of the crop's grey values (Canny 1986), as scikit-image finds them.

    Args:
        sigma: of the Gaussian in front, in pixels.

    Raises:
        ValueError: sigma is not positive.
    """

    channels = 3

    def __init__(self, sigma: float = 2.0) -> None:
        if sigma <= 0:
            raise ValueError(f"sigma must be positive, got {sigma}")
        self.sigma = sigma

    def crop(self, index: int, picture: np.ndarray, view: View) -> np.ndarray:
        from skimage.color import rgb2gray
        from skimage.feature import canny

        edges = canny(rgb2gray(view.cut(picture)), sigma=self.sigma)
        return np.repeat(edges[..., None], 3, axis=-1).astype(np.uint8) * 255


class LowResolution(CropMap):
    """The crop made `factor` times smaller, with antialiasing, and as large as before again.

    Raises:
        ValueError: factor is below 2.
    """

    channels = 3

    def __init__(self, factor: int = 8) -> None:
        if factor < 2:
            raise ValueError(f"factor must be at least 2, got {factor}")
        self.factor = factor

    def crop(self, index: int, picture: np.ndarray, view: View) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(view.cut(picture)))
        size = (max(1, image.width // self.factor), max(1, image.height // self.factor))
        small = image.resize(size, Image.Resampling.BICUBIC)
        return np.asarray(small.resize(image.size, Image.Resampling.BICUBIC))

    def enlarged(self, small: Image.Image) -> Image.Image:
        """A small picture, `factor` times as large."""
        size = (small.width * self.factor, small.height * self.factor)
        return small.resize(size, Image.Resampling.BICUBIC)


class Coordinates(CropMap):
    """Where each pixel of the crop lies in its picture: its raster position over their number.

    For data in which all pictures are aligned, so that pictures larger than a crop can be drawn
    without another condition.
    """

    channels = 1

    def crop(self, index: int, picture: np.ndarray, view: View) -> np.ndarray:
        height, width = picture.shape[:2]
        left, top, right, bottom = view.box
        rows, columns = np.arange(top, bottom)[:, None], np.arange(left, right)
        position = (rows * width + columns) / (height * width)
        if view.mirrored:
            position = position[:, ::-1]
        return position[..., None].astype(np.float32)

    def to_model(self, maps: Tensor, device: torch.device | str = "cpu") -> Tensor:
        return maps.to(device, torch.get_default_dtype())

    def draw(self, x: Tensor) -> Tensor:
        return super().draw(2 * x - 1)


def _open(file: PictureFile) -> Image.Image:
    return decoded(file, upright, " as a map")  # upright, as its picture is read
