"""Codes of many pictures: files of a folder, written by several processes, resumed, read as one.

codes/job.json                            what is encoded and how, before anything else
codes/codes-00000-of-00012.safetensors    the codes of one run of positions, whole or not there
codes/codes.index.json                    last: the folder is finished
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from vqgan_fast.models import VQGAN
from vqgan_fast.models.pretrained import replacing

from .codes import (
    Codes,
    check_tokens,
    codebook_fingerprint,
    read_code_file,
    tokenize_images,
    write_codes,
)
from .fingerprint import names_fingerprint, weights_fingerprint
from .images import DataError, PictureFile
from .naming import naming
from .stream import ImageStream

JOB, INDEX = "job.json", "codes.index.json"


class CodeFolder(NamedTuple):
    """A finished folder: `rows` codes in `files`, pictures that could not be read in `skipped`."""

    rows: int
    files: dict[str, int]  # rows of each
    skipped: list[str]
    job: str  # its fingerprint


class Place(NamedTuple):
    """This process among all: `wait` returns when every one has called it."""

    rank: int = 0
    world_size: int = 1
    wait: Callable[[], None] = lambda: None


ONE_PROCESS = Place()


def write_code_folder(
    folder: Path,
    model: VQGAN,
    stream: ImageStream,
    *,
    crops_per_image: int = 1,
    crops_per_file: int = 16384,
    batch_size: int = 8,
    num_workers: int = 0,
    place: Place = ONE_PROCESS,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> CodeFolder:
    """Encode every picture of a stream into a folder; called by every process alike.

    What lies in the folder already is kept: the same call goes on where one was ended, with any
    number of processes. The files are those of one process. A file that is cut off, or whose
    codes cannot be, is written anew.

    Args:
        model, stream, crops_per_image, batch_size, num_workers: as `tokenize_images`. Another
            `batch_size` is the same job, though where two codes are almost equally near, it may
            choose the other one, as another device may: convolutions round differently.
        crops_per_file: what is lost at most when a process is killed.
        progress: called with (crops done, crops in all) of this process.
        say: called, in the first process, with a line about each damaged file.

    Raises:
        DataError: the folder holds something else, or codes of another job; a difference is named.
            Another job that ended before its first codes is replaced.
    """
    total = crops_per_image * stream.order.num_samples
    job = _describe(model, stream, crops_per_image, crops_per_file)
    if place.rank == 0:
        _start(folder, job)
    place.wait()
    _check_job(folder, job)  # every process: one may see other pictures than the first
    count = -(-total // crops_per_file)
    paths = [folder / f"codes-{n:05d}-of-{count:05d}.safetensors" for n in range(count)]
    spans = [range(a, min(a + crops_per_file, total)) for a in range(0, total, crops_per_file)]
    if place.rank == 0:
        _remove_damaged(paths, say)
    place.wait()
    missing = [n for n, path in enumerate(paths) if not _is_code_file(path)]
    place.wait()  # before the first of them is written
    mine = missing[place.rank :: place.world_size]
    whole = sum(len(spans[number]) for number in mine)
    done = 0
    for number in mine:
        tokens, skipped = tokenize_images(
            model, stream, positions=spans[number], batch_size=batch_size, num_workers=num_workers,
            progress=progress and (lambda now, _, done=done: progress(done + now, whole)),
        )  # fmt: skip
        notes = {**_notes(paths[number].name, job), "skipped": json.dumps(skipped)}
        write_codes(paths[number], tokens, model.quantize.codebook, notes, empty=True)
        done += len(spans[number])
    place.wait()
    if place.rank == 0:
        _finish(folder, job, paths)
    place.wait()
    return _read_index(folder)


def _remove_damaged(paths: list[Path], say: Callable[[str], None] | None) -> None:
    """By one process, for the others would each read all codes."""
    for path in paths:
        if path.exists():
            try:
                tokens, metadata = read_code_file(path)
                check_tokens(tokens, int(metadata["codebook_size"]), str(path), empty=True)
            except DataError as error:
                if isinstance(error.__cause__, OSError):
                    raise  # it says nothing of what is in the file
                path.unlink()
                if say is not None:
                    say(f"written anew: {error}")


def _is_code_file(path: Path) -> bool:
    """Opened, as a network's disk may show another machine's files for a while that are gone."""
    try:
        read_code_file(path)
    except DataError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise
        return False
    return True


def read_codes(path: str | os.PathLike[str]) -> Codes:
    """Read a file that `write_codes` wrote, or a folder that `write_code_folder` finished.

    Raises:
        DataError: no such file or folder, not such a one, a folder that is not finished or misses
            a file, or a token outside the codebook.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise DataError(f"there is no file of codes {path}; `vqgan-fast tokenize` writes one")
    tokens, metadata = read_code_file(path)
    check_tokens(tokens, int(metadata["codebook_size"]), str(path))
    return Codes((tokens,), int(metadata["codebook_size"]), metadata["codebook"])


def read_grid(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(h, w) of each picture's codes in what `read_codes` reads, of which it reads little.

    Raises:
        DataError: as `read_codes`, as far as it looks.
    """
    path = Path(path)
    if path.is_dir():
        path = path / next(iter(_filled_index(path).files))
    tokens, metadata = read_code_file(path)
    check_tokens(tokens[:1], int(metadata["codebook_size"]), str(path), empty=True)
    height, width = tokens.shape[1:]
    return height, width


def _read_folder(folder: Path) -> Codes:
    index = _filled_index(folder)
    parts = []
    for name, rows in index.files.items():
        tokens, metadata = read_code_file(folder / name)
        named = (metadata.get("file"), metadata.get("job"), len(tokens))
        if named != (name, index.job, rows):
            raise DataError(
                f"{folder / name} is not the file that {INDEX} names; remove both and give the "
                "same `vqgan-fast tokenize` command again"
            )
        check_tokens(tokens, int(metadata["codebook_size"]), str(folder / name), empty=True)
        parts.append(tokens)
    keep = tuple(part for part in parts if len(part))
    return Codes(keep, int(metadata["codebook_size"]), metadata["codebook"])


def _describe(
    model: VQGAN, stream: ImageStream, crops_per_image: int, crops_per_file: int
) -> dict[str, Any]:
    """All that decides the codes and how they are cut into files."""
    return {
        "codebook": codebook_fingerprint(model.quantize.codebook),
        "encoder": weights_fingerprint(nn.ModuleList([model.encoder, model.quant_conv])),
        # Whole paths: another set often has the same names. Absolute ones: the same command given
        # from another folder is no other job.
        "pictures": f"{len(stream.files)}, {names_fingerprint(map(_absolute, stream.files))}",
        "crops_per_image": crops_per_image,
        "crops_per_file": crops_per_file,
        **{name: getattr(stream, name) for name in ("size", "resize", "crop", "flip", "seed")},
        "region": list(stream.region),
        "shuffle": stream.order.shuffle,
    }


def _absolute(file: PictureFile) -> str:
    return os.path.abspath(str(file))


def _fingerprint(job: Mapping[str, Any]) -> str:
    return names_fingerprint([json.dumps(job, sort_keys=True)])


def _notes(name: str, job: Mapping[str, Any]) -> dict[str, str]:
    """By which a file is known as the one of this name in this job."""
    return {"file": name, "job": _fingerprint(job)}


def _start(folder: Path, job: Mapping[str, Any]) -> None:
    held = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if JOB in held and held != [JOB]:
        return
    # A job that ended before its first codes gives way to another one.
    if folder.exists() and not (folder.is_dir() and held in ([], [JOB])):
        raise DataError(f"{folder} exists and holds no {JOB} of `tokenize`; choose an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / JOB, job)


def _check_job(folder: Path, job: Mapping[str, Any]) -> None:
    try:
        before = json.loads((folder / JOB).read_text(encoding="utf-8"))
        different = [key for key in {**before, **job} if before.get(key) != job.get(key)]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder / JOB} cannot be read ({error}), so that nothing tells of which job the "
            "codes beside it are; remove the folder, or choose another one, and begin anew"
        ) from error
    if different:
        key = different[0]
        raise DataError(
            f"{folder} was begun with {key} = {before.get(key)}, now it is {job.get(key)}; choose "
            "another folder, or go on as it was begun"
        )


def _finish(folder: Path, job: Mapping[str, Any], paths: list[Path]) -> None:
    """Look at every file and write the index."""
    files, skipped = {}, {}
    for path in paths:
        tokens, metadata = read_code_file(path)
        if not _notes(path.name, job).items() <= metadata.items():
            raise DataError(f"{path} is of another job than {folder / JOB}; remove it")
        files[path.name] = len(tokens)
        skipped.update(dict.fromkeys(json.loads(metadata["skipped"])))
    index = CodeFolder(sum(files.values()), files, list(skipped), _fingerprint(job))
    _write_json(folder / INDEX, index._asdict())


def _read_index(folder: Path) -> CodeFolder:
    if not (folder / INDEX).is_file():
        there = len(list(folder.glob("codes-*.safetensors")))
        raise DataError(
            f"{folder} is no finished folder of codes: it has no {INDEX} ({there} files of codes "
            "are there); give the same `vqgan-fast tokenize` command again to go on"
        )
    try:
        return CodeFolder(**json.loads((folder / INDEX).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder / INDEX} cannot be read: {error}") from error


def _filled_index(folder: Path) -> CodeFolder:
    index = _read_index(folder)
    if not index.rows:
        raise DataError(f"{folder} holds no codes: none of its pictures could be read")
    return index


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with naming(path), replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
