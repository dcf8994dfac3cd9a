"""vector-quantize-pytorch's own README, example by example, before and after `patch`.

The examples are read from the README that the installed release carries, so that none is missed:
each is covered by a line of EXAMPLES with its options, at smaller sizes, and by what `patch` is to
say of it.
"""

from __future__ import annotations

import ast
import copy
import importlib.metadata
import re

import pytest
import torch
import vector_quantize_pytorch as peer
from torch import Tensor, nn
from vq_pytorch_pairs import assert_same, call_alike, nearest_by_fp64

import vqgan_fast
from vqgan_fast.compat import vector_quantize_pytorch as compat

# Class, options, and the shape of the input. Options that set no size are the README's own.
SEQUENCE, IMAGE = (1, 128, 256), (1, 256, 8, 16)
RESIDUAL = {"dim": 256, "num_quantizers": 4, "codebook_size": 256}
VECTOR = {"dim": 256, "codebook_size": 256}
LFQ_LOSS = {"entropy_loss_weight": 0.1, "diversity_gamma": 1.0}
LATENT_LOSS = {"commitment_loss_weight": 0.1, "quantization_loss_weight": 0.1}
SWAPPED = [
    ("VectorQuantize", {**VECTOR, "decay": 0.8, "commitment_weight": 1.0}, SEQUENCE),
    ("ResidualVQ", RESIDUAL, SEQUENCE),
    ("ResidualVQ", {**RESIDUAL, "diveq": True}, SEQUENCE),
    ("GroupedResidualVQ", {**RESIDUAL, "groups": 2}, SEQUENCE),
    # Few codes in few dimensions: a code of one latent alone leaves rounding to the next stage.
    ("ResidualVQ",
     {**RESIDUAL, "dim": 8, "codebook_size": 8, "kmeans_init": True, "kmeans_iters": 10},
     (1, 256, 8)),
    ("VectorQuantize", {**VECTOR, "rotation_trick": True}, SEQUENCE),
    ("VectorQuantize", {**VECTOR, "codebook_dim": 16}, SEQUENCE),
    ("VectorQuantize", {**VECTOR, "use_cosine_sim": True}, SEQUENCE),
    ("VectorQuantize", {**VECTOR, "codebook_size": 64, "threshold_ema_dead_code": 2}, SEQUENCE),
    ("VectorQuantize",
     {**VECTOR, "accept_image_fmap": True, "orthogonal_reg_weight": 10,
      "orthogonal_reg_max_codes": 128, "orthogonal_reg_active_codes_only": False}, IMAGE),
    ("VectorQuantize",
     {"dim": 256, "codebook_dim": 32, "heads": 8, "separate_codebook_per_head": True,
      "codebook_size": 300, "accept_image_fmap": True}, IMAGE),
    ("RandomProjectionQuantizer",
     {"dim": 64, "num_codebooks": 4, "codebook_dim": 16, "codebook_size": 128}, (1, 128, 64)),
    ("SimVQ", {**VECTOR, "rotation_trick": True}, SEQUENCE),
    ("ResidualSimVQ", {**RESIDUAL, "rotation_trick": True}, SEQUENCE),
]  # fmt: skip
# A known class with an option that is not covered: `patch` leaves it and says so.
LEFT = [
    ("ResidualVQ",
     {**RESIDUAL, "stochastic_sample_codes": True, "sample_codebook_temp": 0.1,
      "shared_codebook": True}, SEQUENCE),
]  # fmt: skip
# Without a codebook to search: nothing of ours stands in for them, and `patch` does not name them.
WITHOUT_CODEBOOK = [
    ("FSQ", {"levels": [8, 5, 5, 5]}, (1, 64, 4)),
    ("ResidualFSQ", {"dim": 32, "levels": [8, 5, 5, 3], "num_quantizers": 4}, (1, 64, 32)),
    ("FSP",
     {"levels": [8, 5, 5, 5], "act_name": "normal", "quantize_rate": 0.5, "vector_norm": "var"},
     (1, 64, 4)),
    ("LFQ", {"codebook_size": 256, "dim": 8, **LFQ_LOSS}, (1, 8, 4, 4)),
    ("LFQ", {"codebook_size": 16, "dim": 8, "num_codebooks": 4}, (1, 8, 4, 4)),
    ("ResidualLFQ", {"dim": 32, "codebook_size": 16, "num_quantizers": 4}, (1, 64, 32)),
    ("LatentQuantize", {"levels": [5, 5, 8], "dim": 16, **LATENT_LOSS}, (1, 16, 4, 4)),
    ("LatentQuantize", {"levels": [4, 8, 16], "dim": 9, "num_codebooks": 3}, (2, 9, 3)),
]  # fmt: skip
# At which release 1.32 fails itself, because dead codes must be replaced then: run with that.
INCOMPLETE = ("VectorQuantize",
              {**VECTOR, "directional_reparam": True, "directional_reparam_variance": 5e-3},
              SEQUENCE)  # fmt: skip
EXAMPLES = [*SWAPPED, *LEFT, *WITHOUT_CODEBOOK, INCOMPLETE]
COMPLETED = (INCOMPLETE[0], {**INCOMPLETE[1], "threshold_ema_dead_code": 1}, SEQUENCE)


def name_of(example: tuple) -> str:
    return f"{example[0]}, {', '.join(sorted(example[1]))}"


def readme_examples() -> list[str]:
    """`name_of` every quantiser that the README constructs."""
    text = importlib.metadata.metadata("vector-quantize-pytorch").get_payload()
    names = []
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for node in ast.walk(ast.parse(block.strip())):
            called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if isinstance(getattr(peer, called, None), type):
                names.append(name_of((node.func.id, [keyword.arg for keyword in node.keywords])))
    return names


def test_every_example_is_here() -> None:
    names = readme_examples()
    assert len(names) >= 26, "the README was not read"
    assert set(names) == {name_of(example) for example in EXAMPLES}


@pytest.fixture(autouse=True)
def same_search(monkeypatch: pytest.MonkeyPatch) -> None:
    nearest_by_fp64(monkeypatch)


def made(example: tuple) -> tuple[nn.Module, Tensor]:
    name, options, shape = example
    torch.manual_seed(0)
    return getattr(peer, name)(**options), torch.randn(shape)


@pytest.mark.parametrize("example", [*SWAPPED, COMPLETED], ids=name_of)
def test_patched_examples_agree(example: tuple) -> None:
    """Two steps of training with gradients, then evaluation, and codes from indices."""
    original, x = made(example)
    module = copy.deepcopy(original)
    report = vqgan_fast.patch(module, strict=True)
    assert report.swapped and not report.left
    pair = original, module
    for step in range(2):
        inputs = [x.clone().requires_grad_() for _ in pair]
        results = []
        for one, leaf in zip(pair, inputs, strict=True):
            torch.manual_seed(step)
            results.append(one(leaf))
        assert_same(results[1], results[0])
        if isinstance(results[0], Tensor):
            continue  # indices alone
        for quantized, _, loss in results:
            (quantized.square().mean() + loss.sum()).backward()
        assert_same(inputs[1].grad, inputs[0].grad)
        for theirs, ours in zip(original.parameters(), module.parameters(), strict=True):
            assert (theirs.grad is None) == (ours.grad is None)
            if theirs.grad is not None:
                assert_same(ours.grad, theirs.grad)
    theirs, ours = call_alike((original.eval(), module.eval()), 7, x)
    assert_same(ours, theirs)
    assert_same(module.state_dict(), original.state_dict())
    for lookup in ("indices_to_codes", "get_output_from_indices"):
        if hasattr(original, lookup):
            assert_same(getattr(module, lookup)(ours[1]), getattr(original, lookup)(theirs[1]))
    vqgan_fast.unpatch(module)
    assert type(module) is type(original)


def test_the_example_that_fails_without_us() -> None:
    with pytest.raises(AssertionError, match="periodic dead code replacement"):
        made(INCOMPLETE)
    with pytest.raises(ValueError, match="directional_reparam needs threshold_ema_dead_code > 0"):
        compat.VectorQuantize(**INCOMPLETE[1])


@pytest.mark.parametrize("example", LEFT, ids=name_of)
def test_left_examples_run_as_they_were(example: tuple) -> None:
    original, x = made(example)
    module = copy.deepcopy(original)
    report = vqgan_fast.patch(module)
    assert not report.swapped
    assert "stochastic_sample_codes is not covered" in report.left[""][1]
    with pytest.raises(NotImplementedError, match="stochastic_sample_codes is not covered"):
        getattr(compat, example[0])(**example[1])
    theirs, ours = call_alike((original, module), 0, x)
    assert_same(ours, theirs)


@pytest.mark.parametrize("example", WITHOUT_CODEBOOK, ids=name_of)
def test_examples_without_a_codebook_are_not_touched(example: tuple) -> None:
    original, x = made(example)
    module = copy.deepcopy(original)
    report = vqgan_fast.patch(module)
    assert not report.swapped and not report.left
    theirs, ours = call_alike((original.eval(), module.eval()), 0, x)
    torch.testing.assert_close(list(ours), list(theirs), equal_nan=True)
