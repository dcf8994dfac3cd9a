"""CLIP as a score, with a model as small as the package can build one: nothing is fetched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from vqgan_fast.guidance import ClipScore, ClipUnavailableError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights and a tokenizer that knows letters."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(97, 123)]
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    shared = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2}
    ends = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    config = CLIPConfig(
        text_config={**shared, **heads, **ends, "vocab_size": 54, "max_position_embeddings": 16},
        vision_config={**shared, **heads, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    return folder


def test_the_score_is_that_of_the_model_by_hand_and_has_a_gradient(folder):
    from transformers import AutoTokenizer, CLIPModel

    score = ClipScore("a cat", folder)
    images = (torch.rand(2, 3, 16, 16) * 2 - 1).requires_grad_()
    found = score(images)
    clip = CLIPModel.from_pretrained(folder)
    tokens = AutoTokenizer.from_pretrained(folder)(["a cat"], return_tensors="pt")
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    out = clip(**tokens, pixel_values=((images + 1) / 2 - mean) / deviation)
    cosine = (out.image_embeds @ out.text_embeds.T)[:, 0]
    torch.testing.assert_close(found, -cosine.arccos().square() / 2, atol=1e-4, rtol=1e-4)
    found.sum().backward()
    assert (images.grad != 0).any()
    assert not torch.allclose(found, ClipScore("dog", folder)(images))
    assert score(torch.zeros(1, 3, 20, 30)).shape == (1,)


def test_a_missing_model_is_told_with_advice(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ClipUnavailableError, match=r"the folder .*empty holds no CLIP model .*\nFetch one"
    ):
        (tmp_path / "empty").mkdir()
        ClipScore("a cat", tmp_path / "empty")
    with pytest.raises(ClipUnavailableError, match="nor such a CLIP model in transformers' cache"):
        ClipScore("a cat", "nobody/has-this")
    with pytest.raises(ClipUnavailableError, match=r"there is no folder .*/clip to read"):
        ClipScore("a cat", tmp_path / "clip")


def test_a_tokenizer_of_another_model_is_told(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "clip")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "clip")
    tokenizer.add_tokens(["cat</w>"])
    tokenizer.save_pretrained(tmp_path / "clip")
    with pytest.raises(ClipUnavailableError, match="has a tokenizer of another model: it gives"):
        ClipScore("cat</w>", tmp_path / "clip")
