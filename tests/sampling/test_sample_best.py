"""sample_best: of many candidates for each condition those with the highest scores."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CODEBOOK_SIZE, tiny_gpt

from vqgan_fast.models import LatentTransformer
from vqgan_fast.sampling import SamplingInterrupted, pack, sample, sample_best

TOKENS = torch.tensor([[1], [2], [3]])


def test_the_best_of_many(model):
    def redness(images):
        return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))

    best = sample_best(
        model, window=4, candidates=11, keep=3, score=redness, seeds=[2**63 - 4], batch=4
    )
    everyone = sample(model, window=4, seeds=[2**63 - 4 + i for i in range(11)])
    order = redness(everyone).argsort(descending=True)[:3]
    assert torch.equal(best.images[0], everyone[order])
    torch.testing.assert_close(best.scores[0], redness(everyone)[order].double())
    assert torch.equal(sample(model, window=4, seeds=best.seeds[0]), best.images[0])
    assert best.codes.shape == (1, 3, 4, 4)


def test_the_likeliest_of_many_for_each_condition(model):
    cond = torch.tensor([[1], [2]])
    best = sample_best(model, cond, window=4, candidates=6, seeds=[10, 20])
    for row in range(2):
        seeds = range(10 * (row + 1), 10 * (row + 1) + 6)
        _, logprobs = sample(
            model, cond[row : row + 1].expand(6, 1), window=4, seeds=seeds, return_logprobs=True
        )
        means = logprobs.double().mean((1, 2))
        assert best.scores[row, 0] == pytest.approx(float(means.max()))
        assert best.seeds[row, 0] == seeds[int(means.argmax())]


def test_one_row_of_a_part_of_the_condition_stands_for_all(model):
    longer = LatentTransformer(
        model.first_stage_model, model.cond_stage_model, tiny_gpt(block_size=32)
    ).eval()
    one, each = torch.tensor([[9]]), torch.tensor([[1], [2], [3]])
    best = sample_best(longer, (one, each), window=4, candidates=3, seeds=[10, 20, 30])
    expected = sample_best(
        longer, (one.expand(3, 1), each), window=4, candidates=3, seeds=[10, 20, 30]
    )
    assert best.codes.shape == (3, 1, 4, 4)
    for found, whole in zip(best, expected, strict=True):
        assert found == whole if isinstance(found, int) else torch.equal(found, whole)
    again = sample(longer, (one, each), window=4, seeds=best.seeds[:, 0], return_codes=True)[1]
    assert torch.equal(again, best.codes[:, 0])


def test_each_condition_has_its_own_known_codes_and_its_own_uncond(model):
    # As many candidates as conditions: rows of the one must not be taken for those of the other.
    cond, uncond = torch.tensor([[1], [2]]), torch.tensor([[3], [4]])
    known = torch.arange(32).view(2, 4, 4).remainder(CODEBOOK_SIZE)
    known[:, 2:] = -1
    options = {"window": 4, "candidates": 2, "keep": 2, "guidance": 3.0}
    best = sample_best(model, cond, seeds=[10, 20], known=known, uncond=uncond, **options)
    for row in range(2):
        alone = sample_best(
            model, cond[row : row + 1], seeds=[10 * (row + 1)], known=known[row],
            uncond=uncond[row : row + 1], **options,
        )  # fmt: skip
        assert torch.equal(best.codes[row], alone.codes[0])
        assert torch.equal(best.codes[row, :, :2], known[row, :2].expand(2, 2, 4))
    for_all = sample_best(model, cond, seeds=[10, 20], known=known[0], uncond=uncond[:1], **options)
    assert torch.equal(for_all.codes[0], best.codes[0])
    assert torch.equal(for_all.codes[1, :, :2], known[0, :2].expand(2, 2, 4))


def test_weights_must_be_those_of_a_packed_transformer(model):
    packed = pack(model.transformer, "int8")
    for function in (sample, sample_best):
        with pytest.raises(ValueError, match=r"must be None or .int8., .* got .float32."):
            function(model, window=4, transformer=packed, weights="float32")
    best = sample_best(model, window=4, candidates=2, seeds=[1], transformer=packed)
    again = sample_best(model, window=4, candidates=2, seeds=[1], weights="int8")
    assert torch.equal(best.images, again.images)


def test_an_interruption_leaves_what_is_kept_for_the_conditions_before(model):
    steps = 0

    def stop_in_the_third_condition(*_):
        nonlocal steps
        steps += 1
        if steps == 2 * 2 * 16 + 5:  # two batches for each condition
            raise KeyboardInterrupt

    options = {"window": 4, "candidates": 4, "keep": 2, "batch": 2}
    with pytest.raises(SamplingInterrupted) as caught:
        sample_best(
            model, TOKENS, seeds=[5, 50, 500], callback=stop_in_the_third_condition,
            order="raster", **options,
        )  # fmt: skip
    expected = sample_best(model, TOKENS[:2], seeds=[5, 50], **options)
    for found, complete in zip(caught.value.finished, expected, strict=True):
        assert found == complete if isinstance(found, int) else torch.equal(found, complete)
    assert caught.value.best is None


def test_an_interruption_leaves_the_best_so_far(model):
    steps = 0

    def stop_in_the_third_batch(*_):
        nonlocal steps
        steps += 1
        if steps == 2 * 16 + 5:
            raise KeyboardInterrupt

    with pytest.raises(SamplingInterrupted) as caught:
        sample_best(
            model, window=4, candidates=9, keep=2, seeds=[5], batch=3,
            callback=stop_in_the_third_batch, order="raster",
        )  # fmt: skip
    expected = sample_best(model, window=4, candidates=6, keep=2, seeds=[5])
    for found, complete in zip(caught.value.best, expected, strict=True):
        assert found == complete if isinstance(found, int) else torch.equal(found, complete)
    assert caught.value.finished is None
    assert (caught.value.codes >= 0).sum() == 3 * 5
    assert caught.value.images.shape == (3, 3, 8, 8)


def test_an_interruption_while_a_score_is_computed_leaves_the_pictures(model):
    def score(images):
        raise KeyboardInterrupt

    with pytest.raises(SamplingInterrupted) as caught:
        sample_best(model, window=4, candidates=2, seeds=[5], score=score)
    assert caught.value.best is None
    assert torch.equal(caught.value.images, sample(model, window=4, seeds=[5, 6]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": 3}, "score must be one function, or one for each of the 1 conditions, got 3"),
        ({"score": "lpips"}, "score must be one function, .* got 'lpips'"),
        ({"tile": "8"}, "tile must be an integer, got '8'"),
        ({"tile": 1}, "tile must be at least 2, got 1"),
        ({"preview": "yes"}, "preview must be a function or None, got 'yes'"),
        ({"keep": 5}, "keep must be at most candidates = 4, got 5"),
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"score": lambda images: images.mean()}, "score must return one number for each of the 4"),
        ({"score": lambda images: images[:, 0, 0, 0] * torch.nan}, "none of them NaN, got NaN"),
        ({"score": lambda images: None}, "one number for each of the 4 images, got NoneType"),
        ({"score": lambda images: "best"}, "one number for each of the 4 images, got str"),
        ({"cond": 3}, "cond must be a tensor, got int"),
        ({"cond": TOKENS[0]}, r"cond must be \(B, T\) tokens or .*, got shape \(1,\)"),
        ({"return_codes": True}, "return_codes is not an option here"),
        ({"cond": [[1]]}, "cond must be a tensor, got list"),
        ({"cond": TOKENS[:0]}, "cond must hold at least one image, got a batch of 0"),
        ({"cond": (TOKENS, TOKENS[:2])}, "cond must have a batch of 1 or 3, got 2"),
        ({"cond": ()}, "cond must have at least one part, got 0"),
        ({"known": TOKENS.expand(4, 3, 4)}, r"known must be .* of the 1 conditions, got \(4, 3, 4"),
        ({"known": [[1]]}, "known must be a tensor, got list"),
        ({"uncond": TOKENS, "guidance": 2}, "uncond must have a batch of 1 or 1, got 3"),
    ],
)
def test_bad_arguments_of_the_best(model, change, message):
    with pytest.raises(ValueError, match=message):
        sample_best(model, **{"window": 4, "candidates": 4, **change})


def test_a_wrong_option_of_the_best_is_told_in_its_own_name(model):
    with pytest.raises(TypeError, match=r"sample_best\(\) got an unexpected .* 'topk'"):
        sample_best(model, window=4, topk=3)
