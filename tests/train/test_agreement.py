"""What ranks must have in common; between real ranks: test_faults.py."""

from __future__ import annotations

import pytest
import torch
from tiny import vqgan_run

from vqgan_fast.train import ConfigError, agreement
from vqgan_fast.train.distributed import Ranks


class BesideAnother(Ranks):
    """Rank 0 of two; rank 1 has another torch, and all else in common."""

    def gather_objects(self, thing, group=None):
        _, description = thing
        return [thing, ("node7", {**description, "the version of torch": "2.10.0"})]


def test_another_version_is_named_with_its_machine(tmp_path, pictures):
    ranks = BesideAnother(0, 2, torch.device("cpu"))
    expected = rf"version of torch is {torch.__version__} on rank 0 .* and 2\.10\.0 on rank 1 \(nod"
    with pytest.raises(ConfigError, match=expected.replace("+", r"\+")):
        agreement.start_together(vqgan_run(pictures, tmp_path / "run"), ranks)


def test_machines_with_other_copies_of_the_pictures_do_not_train_together():
    class WithAnotherCopy(Ranks):
        def gather_objects(self, thing, group=None):
            return [thing, ("node7", {"the training data": "8 pictures, 00000000"})]

    expected = (
        r"training data is 9 pictures, .* on rank 0 .* and 8 pictures, 0+ on rank 1 \(node7\)"
    )
    with pytest.raises(ConfigError, match=expected):
        agreement.check_same(
            {"the training data": "9 pictures, 12345678"},
            WithAnotherCopy(0, 2, torch.device("cpu")),
        )


def test_a_global_batch_is_shared_out_or_refused(tmp_path, pictures):
    config = vqgan_run(pictures, tmp_path, data__global_batch_size=12, optim__accumulate=2)
    assert agreement.share_batch(config, 3).data.batch_size == 2
    with pytest.raises(ConfigError, match=r"ranks \* optim.accumulate = 4 \* 2 = 8, got 12"):
        agreement.share_batch(config, 4)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
)
def test_a_fingerprint_changes_with_any_value_and_any_place(dtype, monkeypatch):
    monkeypatch.setattr(agreement, "PART", 4)
    tensor = torch.randint(0, 2 if dtype is torch.bool else 100, (5, 3)).to(dtype)
    tensor[0, 0], tensor[0, 1] = 0, 1
    expected = agreement.fingerprint(tensor)
    assert torch.equal(agreement.fingerprint(tensor.t().clone().t()), expected)
    for place in ((0, 1), (1, 2), (4, 2)):  # within the first part, and in others
        exchanged = tensor.clone()
        exchanged[place] = 0 if exchanged[place] else 1
        assert agreement.fingerprint(exchanged) != expected
    exchanged = tensor.clone()
    exchanged[0, 0], exchanged[0, 1] = 1, 0
    assert agreement.fingerprint(exchanged) != expected
    assert agreement.fingerprint(tensor[:0]) == 0


def test_the_sign_of_zero_is_a_difference():
    zero = torch.zeros(2)
    assert agreement.fingerprint(zero) != agreement.fingerprint(-zero)
