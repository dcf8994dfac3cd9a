"""sample: the codes of sample_codes, decoded."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_gpt

from vqgan_fast.models import (
    VQGAN,
    ColourCodes,
    CoordinateCondition,
    LatentTransformer,
    SOSCondition,
)
from vqgan_fast.sampling import SamplingInterrupted, pack, sample, sample_best, sample_codes
from vqgan_fast.sampling.coordinates import coordinate_tokens

CODEBOOK_SIZE = 20
TOKEN = 21
TOKENS = torch.tensor([[1], [2], [3]])


@pytest.fixture(scope="module")
def model() -> LatentTransformer:
    """An f2 model whose vocabulary (24) is larger than its codebook, with wild weights."""
    torch.manual_seed(0)
    vqgan = VQGAN(
        codebook_size=CODEBOOK_SIZE,
        embed_dim=8,
        ch=32,
        ch_mult=(1, 1),
        num_res_blocks=1,
        attn_resolutions=(),
        resolution=8,
        z_channels=16,
    ).double()
    with torch.no_grad():
        vqgan.quantize.embedding.weight.normal_()
        vqgan.decoder.conv_out.weight.mul_(8)
    return LatentTransformer(vqgan, SOSCondition(TOKEN), tiny_gpt(block_size=31)).eval()


def test_images_are_the_decoded_codes_of_the_models_own_condition(model):
    images = sample(model, grid=(4, 7), window=4, seeds=[5, 6], top_k=8)
    codes = sample_codes(
        model.transformer,
        torch.full((2, 1), TOKEN),
        (4, 7),
        window=4,
        seeds=[5, 6],
        top_k=8,
        num_codes=CODEBOOK_SIZE,
    )
    with torch.no_grad():
        decoded = model.first_stage_model.decode_indices(codes)
    assert images.shape == (2, 3, 8, 14)
    assert decoded.abs().max() > 1, "the clamp has nothing to do"
    torch.testing.assert_close(images, decoded.clamp(-1, 1))


def test_an_image_is_the_same_bits_alone_and_in_a_batch(model):
    together = sample(model, grid=(4, 4), window=4, seeds=[5, 6, 7])
    assert torch.equal(sample(model, grid=(4, 4), window=4, seeds=[6])[0], together[1])


def test_a_given_condition_stands_for_the_models_own(model):
    own = sample(model, window=4, seeds=[3])
    assert torch.equal(sample(model, torch.tensor([[TOKEN]]), window=4, seeds=[3]), own)
    assert not torch.equal(sample(model, torch.tensor([[2]]), window=4, seeds=[3]), own)
    spatial = torch.zeros(1, 4, 5, dtype=torch.int64)
    assert sample(model, spatial, (4, 5), window=4).shape == (1, 3, 8, 10)


def test_the_size_may_be_told_in_pixels(model):
    by_size = sample(model, size=(8, 14), window=4, seeds=[1])
    assert torch.equal(by_size, sample(model, grid=(4, 7), window=4, seeds=[1]))


@pytest.mark.parametrize(("cond_length", "extra"), [(1, 0), (1, 1), (5, 1)])
def test_the_default_window_is_the_grid_that_the_positions_were_made_for(model, cond_length, extra):
    # A sequence is one token shorter than condition and codes; models often have room for all.
    gpt = tiny_gpt(block_size=16 + cond_length - 1 + extra)
    trained = LatentTransformer(model.first_stage_model, SOSCondition(TOKEN), gpt).eval()
    cond = torch.full((1, cond_length), TOKEN)
    images = sample(trained, cond, (4, 7), seeds=[1])
    assert torch.equal(images, sample(trained, cond, (4, 7), window=4, seeds=[1]))
    assert sample(trained, cond).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("block_size", [31, 32])
def test_the_default_window_beside_a_grid_of_conditions(model, block_size):
    gpt = tiny_gpt(block_size=block_size)
    trained = LatentTransformer(model.first_stage_model, SOSCondition(TOKEN), gpt).eval()
    cond = torch.arange(20).view(1, 4, 5)
    images = sample(trained, cond, (4, 5), seeds=[1])
    assert torch.equal(images, sample(trained, cond, (4, 5), window=4, seeds=[1]))


def test_the_number_of_images(model):
    assert len(sample(model, window=4)) == 1
    assert len(sample(model, window=4, num_images=3)) == 3
    assert len(sample(model, window=4, seeds=[1, 2])) == 2


def test_images_may_be_used_in_training_and_modes_come_back(model):
    model.train()
    images = sample(model, window=4)
    torch.nn.Conv2d(3, 1, 1, dtype=torch.float64)(images).sum().backward()
    assert model.transformer.training
    assert not model.first_stage_model.training
    model.eval()


def test_codes_and_log_probabilities_behind_the_images(model):
    images, codes, logprobs = sample(
        model, window=4, seeds=[1, 2], return_codes=True, return_logprobs=True
    )
    assert torch.equal(sample(model, window=4, seeds=[1, 2]), images)
    assert codes.shape == logprobs.shape == (2, 4, 4)
    assert (logprobs < 0).all()
    packed = pack(model.transformer)
    assert torch.equal(sample(model, window=4, seeds=[1, 2], transformer=packed), images)


def test_previews_are_grey_where_nothing_is_drawn(model):
    shown, calls = [], []
    final = sample(
        model, grid=(4, 6), window=4, seeds=[1], order="raster", preview_every=5,
        preview=lambda *call: shown.append(call), callback=lambda *call: calls.append(call),
    )  # fmt: skip
    assert [call[:2] for call in shown] == [(5, 24), (10, 24), (15, 24), (20, 24), (24, 24)]
    assert len(calls) == 24
    first = shown[1][2]
    assert (first[:, :, :2] != 0).any()
    assert (first[:, :, 4:] == 0).all()
    torch.testing.assert_close(shown[-1][2], final)


def test_an_interrupted_picture_is_decoded_as_far_as_it_came(model):
    def interrupt(done, *_):
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(SamplingInterrupted) as caught:
        sample(model, grid=(4, 6), window=4, seeds=[1], order="raster", callback=interrupt)
    assert caught.value.images.shape == (1, 3, 8, 12)
    assert (caught.value.images[:, :, :4] != 0).any()
    assert (caught.value.images[:, :, 4:] == 0).all()


def test_an_interruption_while_decoding_leaves_codes_and_pictures(model, monkeypatch):
    expected = sample(model, window=4, seeds=[1, 2])
    first_stage, decoded = model.first_stage_model, []
    decode_indices = first_stage.decode_indices

    def interrupt_at_the_second(codes):
        decoded.append(codes)
        if len(decoded) == 2:
            raise KeyboardInterrupt
        return decode_indices(codes)

    monkeypatch.setattr(first_stage, "decode_indices", interrupt_at_the_second)
    with pytest.raises(SamplingInterrupted) as caught:
        sample(model, window=4, seeds=[1, 2])
    assert (caught.value.codes >= 0).all()
    assert torch.equal(caught.value.images[0], expected[0])
    assert (caught.value.images[1] == 0).all()


def test_tiles_decode_larger_grids(model):
    whole = sample(model, grid=(4, 20), window=4, seeds=[1])
    tiled = sample(model, grid=(4, 20), window=4, seeds=[1], tile=8)
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)


def test_tiles_of_a_first_stage_without_a_network():
    colours = ColourCodes(CODEBOOK_SIZE).double().eval()
    model = LatentTransformer(colours, SOSCondition(TOKEN), tiny_gpt(block_size=31)).eval()
    whole, tiled = (sample(model, grid=(9, 7), window=4, seeds=[1], tile=t) for t in (None, 4))
    torch.testing.assert_close(tiled, whole)


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
        ({"tile": "8"}, "tile must be an integer, got '8'"),
        ({"tile": 1}, "tile must be at least 2, got 1"),
        ({"preview": "yes"}, "preview must be a function or None, got 'yes'"),
        ({"keep": 5}, "keep must be at most candidates = 4, got 5"),
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"score": lambda images: images.mean()}, "score must return one number for each of the 4"),
        ({"score": lambda images: images[:, 0, 0, 0] * torch.nan}, "none of them NaN"),
        ({"return_codes": True}, "return_codes is not an option here"),
        ({"cond": [[1]]}, "cond must be a tensor, got list"),
        ({"cond": TOKENS[:0]}, "cond must hold at least one image, got a batch of 0"),
        ({"cond": (TOKENS, TOKENS[:2])}, "cond must have a batch of 1 or 3, got 2"),
        ({"cond": ()}, "cond must have at least one part, got 0"),
    ],
)
def test_bad_arguments_of_the_best(model, change, message):
    with pytest.raises(ValueError, match=message):
        sample_best(model, **{"window": 4, "candidates": 4, **change})


def test_coordinates_of_cells():
    tokens = coordinate_tokens((3, 4), 1024, factor=2)
    pixels = torch.arange(6 * 8, dtype=torch.float64).view(1, 1, 6, 8) / (6 * 8)
    expected = (1024 * torch.nn.functional.avg_pool2d(pixels, 2)).round().long()[0]
    assert torch.equal(tokens, expected)


def test_the_last_cells_coordinate_is_a_token():
    tokens = coordinate_tokens((9, 9), 4)
    assert tokens.unique().tolist() == [0, 1, 2, 3]
    pixels = torch.arange(36 * 36, dtype=torch.float64).view(1, 1, 36, 36) / 36**2
    assert torch.equal(CoordinateCondition(4, 4)(1, "cpu", pixels), coordinate_tokens((9, 9), 4, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (4, 4), "size": (8, 8)}, r"size must be None where grid is given, got \(8, 8\)"),
        ({"size": (8, 9)}, r"size must be .* multiples of the downsampling factor 2, got \(8, 9\)"),
        ({"size": (0, 8)}, r"size must be .* multiples of the downsampling factor 2, got \(0, 8\)"),
        ({"size": (8,)}, r"size must be two integers \(H, W\), got \(8,\)"),
        ({"size": (8.0, 8.0)}, r"size must be two integers \(H, W\), got \(8\.0, 8\.0\)"),
        ({"size": (4, 8)}, r"grid must be at least as large as the window, .* got 2 x 4"),
        ({"num_images": 0}, r"num_images must be at least 1, got 0"),
        ({"num_images": 2, "seeds": [1]}, r"seeds must hold one integer .* 2 of them, got 1"),
        ({"seeds": 5}, r"seeds must hold one integer for each image, got 5"),
        (
            {"cond": torch.zeros(1, 1, dtype=torch.int64), "num_images": 2},
            r"num_images must be None where cond is given, got 2",
        ),
        ({"top_k": 21}, r"top_k must be at most the 20 codes, got 21"),
    ],
)
def test_bad_arguments(model, change, message):
    with pytest.raises(ValueError, match=message):
        sample(model, **{"window": 4, **change})
