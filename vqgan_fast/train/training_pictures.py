"""The pictures that a configuration names: a folder, a list of files, or tar shards."""

from __future__ import annotations

from collections.abc import Sequence

from vqgan_fast.data import ShardedPictures, index_shard, list_images, list_shards
from vqgan_fast.data.images import PictureFile

from .config import ConfigError, DataConfig
from .distributed import Ranks


def training_pictures(data: DataConfig, ranks: Ranks) -> Sequence[PictureFile]:
    """The pictures to train on, the same sequence on every rank.

    Raises:
        ConfigError: there are fewer shards than ranks.
        DataError: there is no picture, or a shard is missing, damaged or cut off.
    """
    if data.shards is None:
        return list_images(data.train)
    paths = list_shards(data.shards)
    if len(paths) < ranks.world_size:
        raise ConfigError(
            f"data.shards must be at least as many as the {ranks.world_size} ranks, so that they "
            f"do not all read the same file, got {len(paths)} ({paths[0]} first); write more with "
            "`vqgan-fast shard --count`"
        )
    # Where shards have no index yet, each rank makes its part of them.
    for path in paths[ranks.rank :: ranks.world_size]:
        index_shard(path)
    ranks.wait()
    return ShardedPictures(paths)
