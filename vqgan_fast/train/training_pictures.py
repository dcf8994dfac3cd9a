"""The pictures that a configuration names: a folder, a list of files, or tar shards."""

from __future__ import annotations

from collections.abc import Sequence

from vqgan_fast.data import ShardedPictures, index_shard, list_images, list_shards
from vqgan_fast.data.images import PictureFile

from .config import ConfigError, DataConfig, MapConfig
from .distributed import Ranks


def training_pictures(
    data: DataConfig, ranks: Ranks, maps: Sequence[MapConfig] = ()
) -> Sequence[PictureFile]:
    """The pictures to train on, the same sequence on every rank.

    Args:
        maps: that go with them; shards of these are indexed as well.

    Raises:
        ConfigError: there are fewer shards than ranks.
        DataError: there is no picture, or a shard is missing, damaged or cut off.
    """
    sharded = data.shards is not None
    paths = list_shards(data.shards) if sharded else []
    if sharded and len(paths) < ranks.world_size:
        raise ConfigError(
            f"data.shards must be at least as many as the {ranks.world_size} ranks, so that they "
            f"do not all read the same file, got {len(paths)} ({paths[0]} first); write more with "
            "`vqgan-fast shard --count`"
        )
    # Where shards have no index yet, each rank makes its part of them.
    folders = [kind.folder for kind in maps if kind.folder is not None]
    of_maps = [path for name in folders if name.endswith(".tar") for path in list_shards(name)]
    for path in [*paths, *of_maps][ranks.rank :: ranks.world_size]:
        index_shard(path)
    ranks.wait()
    return ShardedPictures(paths) if sharded else list_images(data.train)
