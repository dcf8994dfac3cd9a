"""Files of codes, and making them from pictures."""

from __future__ import annotations

import errno

import pytest
import torch
from safetensors.torch import save_file
from sample_pictures import write_pictures, write_truncated_jpeg

from vqgan_fast.data import (
    DataError,
    ImageStream,
    codebook_fingerprint,
    list_images,
    read_codes,
    to_model_range,
    tokenize_images,
    write_codes,
)
from vqgan_fast.data import codes as codes_module

CODEBOOK = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


def test_codes_come_back_as_they_were_written(tmp_path):
    tokens = torch.arange(16).repeat(3).view(3, 4, 4)
    path = tmp_path / "new" / "codes.safetensors"
    write_codes(path, tokens, CODEBOOK)
    codes = read_codes(path)
    assert codes.tokens.dtype == torch.int32
    assert torch.equal(codes.tokens, tokens.int())
    assert codes.codebook_size == 16
    assert codes.codebook == codebook_fingerprint(CODEBOOK)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_cannot_be_written_is_an_error_of_the_system(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(codes_module, "_save", fails)
    with pytest.raises(OSError, match=r"codes\.safetensors cannot be written: No space left"):
        write_codes(tmp_path / "codes.safetensors", torch.zeros(1, 2, 2).int(), CODEBOOK)
    assert not list(tmp_path.iterdir())


def test_the_fingerprint_tells_codebooks_apart():
    other = CODEBOOK.clone()
    other[3, 2] += 1e-6
    assert codebook_fingerprint(other) != codebook_fingerprint(CODEBOOK)
    transposed = CODEBOOK.t().contiguous().t()
    assert codebook_fingerprint(transposed) == codebook_fingerprint(CODEBOOK)


@pytest.mark.parametrize("token", [-1, 16])
def test_a_token_out_of_range_is_named_with_its_place(tmp_path, token):
    tokens = torch.zeros(2, 3, 3, dtype=torch.int32)
    tokens[1, 2, 0] = token
    message = rf"token {token} at \[1, 2, 0\] is out of range; the codebook has 16 codes, 0 to 15"
    with pytest.raises(DataError, match=message):
        write_codes(tmp_path / "codes.safetensors", tokens, CODEBOOK)
    metadata = {"codebook_size": "16", "codebook": "0"}
    save_file({"tokens": tokens}, tmp_path / "made_elsewhere.safetensors", metadata)
    with pytest.raises(DataError, match=f"made_elsewhere.*{message}"):
        read_codes(tmp_path / "made_elsewhere.safetensors")


@pytest.mark.parametrize(
    "tokens", [torch.zeros(3, 4), torch.zeros(3, 4, 4), torch.zeros(0, 4, 4, dtype=torch.int32)]
)
def test_tokens_of_another_kind_are_refused(tmp_path, tokens):
    with pytest.raises(DataError, match=r"tokens must be integers \(M, h, w\)"):
        write_codes(tmp_path / "codes.safetensors", tokens, CODEBOOK)


def test_files_that_are_no_codes_are_refused(tmp_path):
    with pytest.raises(DataError, match="there is no file of codes"):
        read_codes(tmp_path / "missing.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"tokens": torch.zeros(1, 2, 2, dtype=torch.int32)}, tmp_path / "bare.safetensors")
    write_codes(tmp_path / "cut.safetensors", torch.zeros(9, 9, 9, dtype=torch.int32), CODEBOOK)
    content = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-100])
    for name in ("text", "bare", "cut"):
        with pytest.raises(DataError, match=rf"{name}\.safetensors is no file of codes"):
            read_codes(tmp_path / f"{name}.safetensors")


def test_tokenizing_gives_each_pictures_codes_in_order(tmp_path, vqgan):
    files = write_pictures(tmp_path, 5)
    stream = ImageStream(files, size=32, crop="center", shuffle=False)
    told = []
    tokens, skipped = tokenize_images(
        vqgan, stream, batch_size=2, progress=lambda *args: told.append(args)
    )
    pictures = torch.stack([stream[position].image for position in range(5)])
    with torch.no_grad():
        expected = vqgan.encode_indices(to_model_range(pictures))
    assert skipped == ()
    assert torch.equal(tokens, expected.int())
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_tokenizing_leaves_unreadable_pictures_out(tmp_path, vqgan):
    write_pictures(tmp_path, 3)
    cut = write_truncated_jpeg(tmp_path / "picture_001.jpg")
    settings = {"size": 32, "crop": "center", "shuffle": False}
    tokens, skipped = tokenize_images(vqgan, ImageStream(list_images(tmp_path), **settings))
    assert skipped == (str(cut),)
    cut.unlink()
    expected, _ = tokenize_images(vqgan, ImageStream(list_images(tmp_path), **settings))
    assert torch.equal(tokens, expected)


def test_several_random_crops_of_each_picture(tmp_path, vqgan):
    stream = ImageStream(write_pictures(tmp_path, 3, 64, 64), size=32, flip=True, shuffle=False)
    tokens, _ = tokenize_images(vqgan, stream, crops_per_image=4)
    assert tokens.shape == (12, 8, 8)
    assert len({row.numpy().tobytes() for row in tokens}) > 6
