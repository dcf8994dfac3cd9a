"""GPT against the reference, and its cache against itself without one."""

from __future__ import annotations

import types

import pytest
import taming_peer
import torch
from torch import Tensor

from vqgan_fast.models.gpt import GPT
from vqgan_fast.models.kv_cache import KVCache

SMALL = {"vocab_size": 37, "block_size": 24, "n_layer": 3, "n_head": 4, "n_embd": 32}


def make(**change) -> GPT:
    """A small GPT in eval mode whose positions are not zero, with no gradients."""
    torch.manual_seed(0)
    gpt = GPT(**{**SMALL, **change})
    torch.nn.init.normal_(gpt.pos_emb, std=0.5)
    return gpt.eval().requires_grad_(False)


def tokens_of(count: int, batch: int = 2) -> Tensor:
    return torch.randint(37, (batch, count), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "config",
    [
        {"vocab_size": 1024, "block_size": 512, "n_layer": 24, "n_head": 16, "n_embd": 1024},
        {"vocab_size": 16384, "block_size": 257, "n_layer": 2, "n_unmasked": 1, "attn_pdrop": 0.1},
    ],
)
def test_state_dict_is_the_references(config: dict) -> None:
    with torch.device("meta"):
        ours, reference = GPT(**config), taming_peer.gpt_class()(**config)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in reference.state_dict().items()
    }
    assert "blocks.1.attn.mask" in ours.state_dict()


@pytest.mark.parametrize("n_unmasked", [0, 7])
@pytest.mark.parametrize("count", [1, 5, 24])
def test_logits_equal_the_references(count: int, n_unmasked: int) -> None:
    ours = make(n_unmasked=n_unmasked)
    reference = taming_peer.gpt_class()(**ours.config).eval()
    own_masks = [block.attn.mask.clone() for block in reference.blocks]
    reference.load_state_dict(ours.state_dict())
    assert all(torch.equal(m, b.attn.mask) for m, b in zip(own_masks, ours.blocks, strict=True))
    tokens = tokens_of(count)
    torch.testing.assert_close(ours(tokens), reference(tokens)[0], rtol=1e-5, atol=1e-6)


def test_gradients_equal_the_references() -> None:
    ours = make().train().requires_grad_(True)
    reference = taming_peer.gpt_class()(**ours.config)
    reference.load_state_dict(ours.state_dict())
    tokens = tokens_of(12)
    for logits in (ours(tokens), reference(tokens)[0]):
        logits.square().mean().backward()
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-7)


def test_initialisation() -> None:
    torch.manual_seed(0)
    gpt = GPT(512, 16, n_layer=1, n_head=2, n_embd=128)
    linear = gpt.blocks[0].mlp[0]
    for weight in (linear.weight, gpt.tok_emb.weight, gpt.head.weight):
        assert abs(weight.std() - 0.02) < 5e-4
        assert abs(weight.mean()) < 5e-4
    assert (linear.bias == 0).all()
    assert (gpt.pos_emb == 0).all()
    assert (gpt.ln_f.weight == 1).all()


def test_dropout_only_in_training() -> None:
    tokens = tokens_of(8)
    for kind in ("embd_pdrop", "resid_pdrop", "attn_pdrop"):
        gpt = make(**{kind: 0.5})
        assert torch.equal(gpt(tokens), gpt(tokens))
        gpt.train()
        assert not torch.equal(gpt(tokens), gpt(tokens))


@pytest.mark.parametrize("n_unmasked", [0, 5])
@pytest.mark.parametrize("steps", [[24], [6] + [1] * 18, [5, 1, 4, 1, 1, 9, 3]])
def test_cached_logits_equal_uncached(steps: list[int], n_unmasked: int) -> None:
    gpt = make(n_unmasked=n_unmasked)
    tokens = tokens_of(24)
    cache = KVCache(gpt, batch_size=2)
    logits = [gpt(chunk, cache=cache) for chunk in tokens.split(steps, dim=1)]
    assert cache.length == 24
    torch.testing.assert_close(torch.cat(logits, 1), gpt(tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_unmasked", [0, 3])
def test_truncated_cache_takes_another_continuation(n_unmasked: int) -> None:
    gpt = make(n_unmasked=n_unmasked)
    cache = KVCache(gpt, batch_size=2)
    tokens = tokens_of(20)
    gpt(tokens, cache=cache)
    cache.truncate(9)
    other = torch.cat([tokens[:, :9], 36 - tokens[:, 9:14]], dim=1)
    logits = torch.cat([gpt(part, cache=cache) for part in other[:, 9:].split([3, 1, 1], 1)], 1)
    torch.testing.assert_close(logits, gpt(other)[:, 9:], rtol=1e-5, atol=1e-5)
    cache.truncate(0)
    torch.testing.assert_close(gpt(other, cache=cache), gpt(other), rtol=1e-5, atol=1e-5)


def test_storage_is_allocated_once() -> None:
    gpt = make()
    cache = KVCache(gpt, batch_size=2, max_length=8)
    assert cache.k_cache.shape == (3, 2, 4, 8, 8)
    before = cache.k_cache.data_ptr(), cache.v_cache.data_ptr()
    gpt(tokens_of(4), cache=cache)
    gpt(tokens_of(1), cache=cache)
    assert (cache.k_cache.data_ptr(), cache.v_cache.data_ptr()) == before
    k, v = cache.append(1, cache.k_cache[1, :, :, :2].clone(), cache.v_cache[1, :, :, :2].clone())
    assert k.shape == (2, 4, 7, 8)
    assert k.data_ptr() == cache.k_cache[1].data_ptr()
    assert v.data_ptr() == cache.v_cache[1].data_ptr()


def test_positions() -> None:
    gpt = make()
    tokens = tokens_of(6)
    assert torch.equal(gpt(tokens, positions=torch.arange(6)), gpt(tokens))
    rows = torch.stack([torch.arange(6), torch.arange(6, 12)])
    per_row = gpt(tokens, positions=rows)
    torch.testing.assert_close(per_row[:1], gpt(tokens[:1]), rtol=1e-5, atol=1e-6)
    alone = gpt(tokens[1:], positions=rows[1])
    torch.testing.assert_close(per_row[1:], alone, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(alone, gpt(tokens[1:]), atol=1e-3)


@pytest.mark.parametrize("logits_from", [0, 2, 5, -1, -4])
def test_only_the_wanted_rows(logits_from: int) -> None:
    gpt = make()
    tokens = tokens_of(6)
    logits = gpt(tokens, logits_from=logits_from)
    torch.testing.assert_close(logits, gpt(tokens)[:, logits_from:], rtol=1e-5, atol=1e-6)


def test_bf16_autocast_with_cache() -> None:
    gpt = make()
    tokens = tokens_of(6)
    with torch.autocast("cpu", torch.bfloat16):
        cache = KVCache(gpt, batch_size=2)
        assert cache.k_cache.dtype == torch.bfloat16
        logits = torch.cat([gpt(part, cache=cache) for part in tokens.split(3, 1)], 1)
    assert (logits - gpt(tokens)).abs().max() < 2e-2 * logits.abs().max()


def test_decay_groups_are_the_references() -> None:
    gpt = make().requires_grad_(True)
    reference = taming_peer.latent_transformer(
        {
            "codebook_size": 8,
            "embed_dim": 4,
            "ch": 32,
            "ch_mult": [1],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "resolution": 16,
            "in_channels": 3,
            "out_ch": 3,
            "z_channels": 8,
            "dropout": 0.0,
            "double_z": False,
        },
        gpt.config,
    )
    names = {id(p): name for name, p in gpt.named_parameters()}
    groups = [{names[id(p)] for p in group["params"]} for group in gpt.decay_groups(0.3)]
    assert sum(len(group["params"]) for group in gpt.decay_groups(0.3)) == len(names)
    assert [group["weight_decay"] for group in gpt.decay_groups(0.3)] == [0.3, 0.0]
    stub = types.SimpleNamespace(transformer=reference.transformer, learning_rate=1.0)
    optimizer = type(reference).configure_optimizers(stub)
    names = {id(p): name for name, p in reference.transformer.named_parameters()}
    expected = [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]
    assert groups == expected


def test_compiles_as_one_graph() -> None:
    gpt = make()
    compiled = torch.compile(gpt, fullgraph=True, backend="eager")
    assert torch.equal(compiled(tokens_of(6), logits_from=2), gpt(tokens_of(6), logits_from=2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": torch.tensor([[0, 37]])}, r"tokens must lie in \[0, 37\), got 37"),
        ({"tokens": torch.tensor([[0, -1]])}, r"tokens must lie in \[0, 37\), got -1"),
        ({"tokens": torch.zeros(1, 2)}, "tokens must be int64 or int32, got torch.float32"),
        ({"tokens": torch.tensor([1, 2])}, r"tokens must be \(B, T\) with T >= 1, got \(2,\)"),
        ({"tokens": tokens_of(0)}, r"tokens must be \(B, T\) with T >= 1"),
        ({"tokens": tokens_of(25)}, "block_size = 24, got 25 tokens behind 0 cached"),
        ({"tokens": tokens_of(3), "logits_from": 3}, r"logits_from must lie in \[-3, 3\), got 3"),
        (
            {"tokens": tokens_of(2), "positions": torch.tensor([0, 24])},
            r"positions must lie in \[0, 24\), got 24",
        ),
        (
            {"tokens": tokens_of(2), "positions": torch.tensor([0])},
            r"positions must be \(2,\) or \(2, 2\), got \(1,\)",
        ),
    ],
)
def test_bad_input(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": [[1, 2]]}, r"tokens must be a torch\.Tensor, got builtins\.list"),
        ({"tokens": None}, r"tokens must be a torch\.Tensor, got None"),
        (
            {"tokens": tokens_of(2), "positions": [0, 1]},
            r"positions must be a torch\.Tensor, got builtins\.list",
        ),
    ],
)
def test_what_is_no_tensor_is_named(arguments: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()(**arguments)


def test_bad_use_of_the_cache() -> None:
    gpt = make()
    cache = KVCache(gpt, batch_size=2, max_length=4)
    gpt(tokens_of(3), cache=cache)
    with pytest.raises(ValueError, match="cache is full: it holds 3 of 4 tokens, 2 more came"):
        gpt(tokens_of(2), cache=cache)
    assert cache.length == 3
    with pytest.raises(ValueError, match="cache was made for batch size 2, got 1"):
        gpt(tokens_of(1, batch=1), cache=cache)
    with pytest.raises(ValueError, match=r"length must lie in \[0, 3\], got 4"):
        cache.truncate(4)
    with pytest.raises(ValueError, match=r"call the model under torch\.no_grad"):
        gpt.requires_grad_(True)(tokens_of(1), cache=cache)
    with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
        KVCache(gpt, batch_size=1, max_length=0)
    long = KVCache(gpt, batch_size=2, max_length=30)
    gpt.requires_grad_(False)(tokens_of(24), cache=long)
    with pytest.raises(ValueError, match="block_size = 24, got 1 tokens behind 24 cached"):
        gpt(tokens_of(1), cache=long)
    for other in ({"n_layer": 1}, {"n_head": 2, "n_embd": 16}):
        with pytest.raises(ValueError, match="cache was made for a model with"):
            gpt(tokens_of(1), cache=KVCache(make(**other), batch_size=2))
    half = KVCache(gpt, batch_size=2, dtype=torch.bfloat16)
    with pytest.raises(
        ValueError, match=r"holds torch\.bfloat16, the model computes torch\.float32"
    ):
        gpt(tokens_of(1), cache=half)


def test_a_cache_cannot_end_inside_the_unmasked_prefix() -> None:
    gpt = make(n_unmasked=5)
    cache = KVCache(gpt, batch_size=2)
    gpt(tokens_of(3), cache=cache)
    with pytest.raises(ValueError, match=r"unmasked prefix of 5 tokens.*got 3 cached"):
        gpt(tokens_of(4), cache=cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_embd": 30}, "n_embd must be a multiple of n_head = 4, got 30"),
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"n_layer": True}, "n_layer must be an integer, got True"),
        ({"resid_pdrop": 1.0}, r"resid_pdrop must lie in \[0, 1\), got 1.0"),
        ({"resid_pdrop": "a"}, "resid_pdrop must be a finite number, got 'a'"),
        ({"n_unmasked": 1.5}, r"n_unmasked must be an integer, got 1\.5"),
        ({"n_unmasked": -1}, "n_unmasked must be at least 0, got -1"),
        ({"n_unmasked": 25}, r"n_unmasked must lie in \[0, block_size = 24\], got 25"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPT(**{**SMALL, **change})
