"""sample: the codes of sample_codes, decoded."""

from __future__ import annotations

from inspect import signature

import pytest
import torch
from tiny_models import CODEBOOK_SIZE, TOKEN, tiny_gpt, tiny_window_gpt

from vqgan_fast.cli.condition_input import Turn, given_condition
from vqgan_fast.models import (
    ColourCodes,
    CoordinateCondition,
    LatentTransformer,
    SOSCondition,
)
from vqgan_fast.sampling import SamplingInterrupted, pack, sample, sample_best, sample_codes
from vqgan_fast.sampling.coordinates import coordinate_tokens


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


def test_the_default_grid_of_a_transformer_without_positions(model):
    gpt = tiny_window_gpt(reach=3)
    for grid, size in ((None, (12, 12)), ((3, 5), (6, 10))):
        trained = LatentTransformer(model.first_stage_model, SOSCondition(TOKEN), gpt, grid=grid)
        assert sample(trained.eval()).shape == (1, 3, *size)


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


def test_coordinates_of_cells():
    tokens = coordinate_tokens((3, 4), 1024, factor=2)
    pixels = torch.arange(6 * 8, dtype=torch.float64).view(1, 1, 6, 8) / (6 * 8)
    expected = (1024 * torch.nn.functional.avg_pool2d(pixels, 2)).round().long()[0]
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3, 4), 0), "num_tokens must be at least 1, got 0"),
        (((3, 4), 10.0), r"num_tokens must be an integer, got 10\.0"),
        (((3, 4), 10, 0), "factor must be at least 1, got 0"),
        (((3, 4), 10, 1.5), r"factor must be an integer, got 1\.5"),
        (((0, 4), 10), "grid must be at least 1, got 0"),
        ((4, 10), r"grid must be two integers \(H, W\), got 4"),
    ],
)
def test_bad_arguments_of_coordinates(arguments, message):
    with pytest.raises(ValueError, match=message):
        coordinate_tokens(*arguments)


def test_the_default_device_does_not_enter(model):
    options = {"grid": (4, 9), "window": 4, "tile": 4}
    expected = sample(model, seeds=[1], **options)
    best = sample_best(model, candidates=3, seeds=[1], **options)
    tokens = coordinate_tokens((3, 4), 10)
    with torch.device("meta"):
        assert torch.equal(sample(model, seeds=[1], **options), expected)
        again = sample_best(model, candidates=3, seeds=[1], **options)
        assert torch.equal(again.images, best.images)
        assert torch.equal(again.seeds, best.seeds)
        listed = sample_best(model, candidates=2, score=lambda images: [0.5, 1.0], **options)
        assert torch.equal(coordinate_tokens((3, 4), 10), tokens)
    assert listed.scores.tolist() == [[1.0]]


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
        ({"seeds": []}, "seeds must hold at least one integer where cond is None, got none"),
        ({"cond": 3}, "cond must be a tensor, got int"),
        ({"cond": 3, "window": None}, "cond must be a tensor, got int"),
        ({"cond": [0, 1], "window": None}, "cond must be a tensor, got list"),
        ({"cond": 1, "guidance": 2.0}, "cond must be a tensor, got int"),
        (
            {"cond": torch.tensor([0, 1]), "window": None},
            r"cond must be \(B, T\) tokens or \(B, H, W\) for the grid, got shape \(2,\)",
        ),
        ({"guidance": torch.tensor([1.0, 2.0])}, "guidance must be a finite number, got tensor"),
        ({"top_k": 21}, r"top_k must be at most the 20 codes, got 21"),
    ],
)
def test_bad_arguments(model, change, message):
    with pytest.raises(ValueError, match=message):
        sample(model, **{"window": 4, **change})


@pytest.mark.parametrize("name", ["topk", "num_codes"])
def test_a_wrong_option_is_told_in_the_functions_own_name(model, name):
    with pytest.raises(TypeError, match=rf"sample\(\) got an unexpected keyword argument '{name}'"):
        sample(model, window=4, **{name: 3})


def test_the_options_are_those_of_sample_codes():
    ours, theirs = signature(sample).parameters, signature(sample_codes).parameters
    left = set(theirs) - {"gpt", "num_codes"}
    assert left <= set(ours)
    for name in left - {"cond", "grid", "window"}:  # which the model knows
        assert ours[name].default == theirs[name].default, name


@pytest.mark.parametrize("draw", [sample, sample_best])
def test_what_is_no_model_of_both_stages_is_refused(model, draw):
    with pytest.raises(TypeError, match=r"model must be a LatentTransformer.* got VQGAN"):
        draw(model.first_stage_model)
    with pytest.raises(TypeError, match=r"LatentTransformer.from_pretrained .* got 'runs/photos'"):
        draw("runs/photos")


def test_a_compiled_model_is_one(model):
    compiled = torch.compile(model)
    images = sample(compiled, window=4, seeds=[5])
    assert torch.equal(images, sample(model, window=4, seeds=[5]))


def test_the_command_refuses_a_class_for_a_model_without_classes(model):
    with pytest.raises(ValueError, match=r"--cond must be left out: .* no classes, got owl"):
        given_condition(model, "owl", [], (4, 4), Turn(0, 1))
