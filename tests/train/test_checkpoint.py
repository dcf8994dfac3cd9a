"""Checkpoints: whole or not there, damage found, nothing executed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
from pathlib import Path

import pytest
import torch

from vqgan_fast.train import CheckpointError, ConfigError
from vqgan_fast.train.checkpoint import (
    find_damage,
    load_tensors,
    newest_checkpoint,
    read_state,
)
from vqgan_fast.train.checkpoint_writer import CheckpointWriter
from vqgan_fast.train.distributed import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


def some_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model/weight": torch.randn(5, 4, generator=generator),
        "model/bias.half": torch.randn(4, generator=generator).bfloat16(),
        "step": torch.tensor(3.0 + seed),
        "counts": torch.arange(6, dtype=torch.int32).view(2, 3) + seed,
        "random": torch.arange(9, dtype=torch.uint8),
        "empty": torch.zeros(0),
    }


def save(folder: Path, step: int, keep: int = 3) -> Path:
    CheckpointWriter(folder, keep, ALONE).save(step, some_tensors(step), {"step": step})
    return folder / f"step_{step:06d}"


def load(path: Path) -> dict[str, torch.Tensor]:
    tensors = {name: torch.zeros_like(tensor) for name, tensor in some_tensors().items()}
    load_tensors(path, tensors, ALONE)
    return tensors


def largest_file(path: Path) -> Path:
    return max(path.glob("*.distcp"), key=lambda file: file.stat().st_size)


def no_warning(message: str) -> None:
    raise AssertionError(message)


def test_what_is_saved_comes_back(tmp_path):
    path = save(tmp_path, 7)
    assert path == tmp_path / "step_000007"
    assert find_damage(path) is None
    assert read_state(path)["step"] == 7 and read_state(path)["seconds"] > 0
    for name, tensor in load(path).items():
        assert torch.equal(tensor, some_tensors(7)[name]), name


def test_only_the_newest_are_kept_and_nothing_unfinished(tmp_path):
    (tmp_path / "unfinished_step_000002").mkdir()
    for step in (3, 10, 20, 100):
        save(tmp_path, step, keep=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["step_000020", "step_000100"]
    assert newest_checkpoint(tmp_path, no_warning) == tmp_path / "step_000100"


def test_an_old_checkpoint_that_cannot_be_removed_stops_nothing(tmp_path, monkeypatch):
    def busy(path, *arguments, **more):
        raise OSError(16, "Device or resource busy", str(path))

    save(tmp_path, 1, keep=1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "rmdir", busy)
        patched.setattr(os, "unlink", busy)
        save(tmp_path, 2, keep=1)
    assert newest_checkpoint(tmp_path, no_warning) == tmp_path / "step_000002"
    save(tmp_path, 3, keep=1)  # by then it can be
    assert [path.name for path in tmp_path.iterdir()] == ["step_000003"]


def test_steps_beyond_six_digits_stay_in_order(tmp_path):
    for step in (999_999, 1_000_000):
        save(tmp_path, step, keep=1)
    assert [file.name for file in tmp_path.iterdir()] == ["step_1000000"]


def truncate(path: Path) -> None:
    os.truncate(largest_file(path), largest_file(path).stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(largest_file(path).read_bytes())
    content[len(content) // 2] ^= 1
    largest_file(path).write_bytes(content)


def put_a_file_there(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("x")


def put_a_folder_there(file: Path) -> None:
    file.unlink()
    file.mkdir()


def forget(path: Path, end: str) -> None:
    """Leave a file out of the manifest."""
    manifest = json.loads((path / "manifest.json").read_text())
    kept = {name: told for name, told in manifest.items() if not name.endswith(end)}
    (path / "manifest.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "bytes of"),
        (put_a_file_there, "manifest.json cannot be read: Not a directory"),
        (lambda path: put_a_folder_there(path / "manifest.json"), "read: Is a directory"),
        (lambda path: put_a_folder_there(path / ".metadata"), ".metadata is missing"),
        (lambda path: (path / "manifest.json").write_text("[" * 100_000), "cannot be read"),
        (lambda path: (path / "manifest.json").write_text("{}"), "does not list .metadata"),
        (lambda path: forget(path, ".metadata"), "does not list .metadata"),
        (lambda path: forget(path, "state.json"), "does not list state.json"),
        (lambda path: forget(path, ".distcp"), "does not list a file of tensors"),
        (flip_a_bit, "does not have its checksum"),
        (lambda path: largest_file(path).unlink(), "is missing"),
        (lambda path: (path / ".metadata").unlink(), ".metadata is missing"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda path: (path / "manifest.json").write_text('{"a'), "cannot be read"),
        (lambda path: (path / "state.json").write_text("{}"), "state.json has 2 bytes"),
    ],
)
def test_a_damaged_checkpoint_is_set_aside_for_the_previous_one(tmp_path, damage, reason):
    for step in (1, 2):
        save(tmp_path, step)
    damage(tmp_path / "step_000002")
    told = []
    assert newest_checkpoint(tmp_path, told.append) == tmp_path / "step_000001"
    assert len(told) == 1
    assert reason in told[0] and "step_000002" in told[0] and "step_000001" in told[0]
    assert (tmp_path / "damaged_step_000002").exists()
    save(tmp_path, 2)  # the way is free again, and a second damage finds another name
    damage(tmp_path / "step_000002")
    newest_checkpoint(tmp_path, told.append)
    assert (tmp_path / "damaged_step_000002_2").exists()


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
@pytest.mark.parametrize("name", ["read_text", "stat"])
def test_an_error_that_may_pass_sets_no_checkpoint_aside(tmp_path, monkeypatch, code, name):
    for step in (1, 2):
        save(tmp_path, step)
    original = getattr(Path, name)

    def fail(path, *arguments, **more):
        if "/step_000002" in str(path):
            raise OSError(code, os.strerror(code), str(path))
        return original(path, *arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Path, name, fail)
        with pytest.raises(OSError, match="step_000002") as raised:
            newest_checkpoint(tmp_path, no_warning)
    assert raised.value.errno == code
    assert newest_checkpoint(tmp_path, no_warning) == tmp_path / "step_000002"


def test_digits_that_number_no_checkpoint_are_passed_over(tmp_path):
    for name in ("step_\u00b2", "step_\u0663", "step_-1", "step_"):
        (tmp_path / name).mkdir()
    assert newest_checkpoint(tmp_path, no_warning) is None
    save(tmp_path, 1)
    assert newest_checkpoint(tmp_path, no_warning) == tmp_path / "step_000001"


def test_if_all_are_damaged_that_is_an_error_and_none_means_none(tmp_path):
    assert newest_checkpoint(tmp_path, no_warning) is None
    truncate(save(tmp_path, 1))
    with pytest.raises(CheckpointError, match=r"all are damaged: .*step_000001: __0_0\.distcp has"):
        newest_checkpoint(tmp_path, no_warning)
    assert (tmp_path / "step_000001").is_dir()


def test_another_configuration_is_an_error_that_names_the_tensor(tmp_path):
    path = save(tmp_path, 1)
    with pytest.raises(
        ConfigError, match=r"another configuration: counts is \(2, 3\) there and \(2, 4\) here"
    ):
        load_tensors(path, {"counts": torch.zeros(2, 4, dtype=torch.int32)}, ALONE)
    with pytest.raises(ConfigError, match="has no average/weight"):
        load_tensors(path, {"average/weight": torch.zeros(1)}, ALONE)


def test_what_a_checkpoint_holds_and_nothing_reads_is_an_error(tmp_path):
    path = save(tmp_path, 1)
    tensors = some_tensors()
    del tensors["counts"]
    with pytest.raises(ConfigError, match="holds counts that this configuration has not"):
        load_tensors(path, tensors, ALONE)
    del tensors["empty"]
    with pytest.raises(ConfigError, match="holds counts and 1 more tensors that this"):
        load_tensors(path, tensors, ALONE)
    load_tensors(path, tensors, ALONE, unread=("count", "empty"))
    assert torch.equal(tensors["step"], some_tensors(1)["step"])


def test_in_the_background_the_tensors_of_the_call_are_written(tmp_path):
    tensors = some_tensors(7)
    with CheckpointWriter(tmp_path, 3, ALONE, background=True) as writer:
        writer.save(7, tensors, {"step": 7})
        for tensor in tensors.values():
            tensor.zero_()
        writer.save(8, tensors, {"step": 8})
        writer.finish()
    for name, tensor in load(tmp_path / "step_000007").items():
        assert torch.equal(tensor, some_tensors(7)[name]), name
    assert load(tmp_path / "step_000008")["model/weight"].abs().sum() == 0


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, background):
    last = save(tmp_path, 1)
    content = largest_file(last).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with CheckpointWriter(tmp_path, 1, ALONE, background) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(CheckpointError, match=r"step 2 cannot .*File too large.*step_0+1"):
                writer.save(2, some_tensors(2), {"step": 2})
                writer.finish()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [path.name for path in tmp_path.iterdir()] == ["step_000001"]
        assert largest_file(last).read_bytes() == content
        writer.save(3, some_tensors(3), {"step": 3})  # when there is room again
        writer.finish()
    assert find_damage(tmp_path / "step_000003") is None


class Exploit:
    """Makes a file if it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def replace(path: Path, content: bytes) -> None:
    """Put something else in place of the table of contents, with a manifest that agrees."""
    import zlib

    (path / ".metadata").write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest[".metadata"] = {"bytes": len(content), "crc32": zlib.crc32(content)}
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_table_of_contents_executes_nothing(tmp_path):
    path, target = save(tmp_path / "run", 1), tmp_path / "executed"
    replace(path, pickle.dumps(Exploit(target)))
    assert find_damage(path) is None
    with pytest.raises(CheckpointError, match="cannot be trusted"):
        load(path)
    assert not target.exists()


def test_a_value_that_is_no_tensor_is_refused(tmp_path):
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata

    path = save(tmp_path, 1)
    metadata = pickle.loads((path / ".metadata").read_bytes())
    metadata.state_dict_metadata["counts"] = BytesStorageMetadata()
    replace(path, pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match="BytesStorageMetadata"):
        load(path)
