"""The codebook's windows, its alarm, and the repair of dead codes."""

from __future__ import annotations

import copy

import pytest
import torch

from vqgan_fast.models import VQGAN
from vqgan_fast.train.codebook_monitor import CodebookMonitor
from vqgan_fast.train.config import CodebookConfig
from vqgan_fast.train.distributed import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


def monitor(codes=4, **settings):
    return CodebookMonitor(codes, CodebookConfig(**settings), 0, ALONE)


def counts(*values):
    return torch.tensor(values)


def test_usage_and_perplexity_are_those_of_the_last_steps():
    watch = monitor(usage_window=2)
    for step, used in enumerate([counts(9, 0, 0, 0), counts(0, 4, 0, 0), counts(0, 0, 4, 0)]):
        watch.observe(step, used)
    figures, warning = watch.figures(3)
    assert figures == {"codebook_usage": 0.5, "perplexity": pytest.approx(2.0)}
    assert warning is None


def test_the_alarm_waits_for_a_full_window_and_asks_no_more_than_possible():
    watch = monitor(codes=10, usage_window=2, collapse_usage=0.5)
    one_code = counts(20, *[0] * 9)
    watch.observe(0, one_code)
    assert watch.figures(1)[1] is None
    watch.observe(1, one_code)
    assert "only 10.0% of the 10 codes were used in the last 2 steps" in watch.figures(2)[1]
    few = monitor(codes=10, usage_window=1, collapse_usage=0.5)
    few.observe(0, counts(1, 1, 0, 0, 0, 0, 0, 0, 0, 0))  # two latents cannot use five codes
    assert few.figures(1)[1] is None


def test_restarts_are_due_where_they_are_asked_for():
    assert [monitor(restart_dead_codes=True, restart_after=3).restart_is_due(i) for i in range(7)] \
        == [True, False, False, True, False, False, True]  # fmt: skip
    assert not monitor(restart_dead_codes=False, restart_after=3).restart_is_due(3)


def test_a_restart_moves_dead_codes_only_and_forgets_their_moments():
    torch.manual_seed(0)
    model = VQGAN(
        codebook_size=6, embed_dim=4, ch=32, ch_mult=(1, 1), num_res_blocks=1,
        attn_resolutions=(), resolution=8, z_channels=8,
    )  # fmt: skip
    codebook = model.quantize.embedding.weight
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    x = torch.randn(2, 3, 8, 8)
    x_hat, loss, _ = model(x)
    (x_hat.mean() + loss).backward()
    codebook.grad += 1
    optimizer.step()
    average, before = copy.deepcopy(model), codebook.detach().clone()
    moments = {key: value.clone() for key, value in optimizer.state[codebook].items()}

    watch = monitor(codes=6, restart_dead_codes=True, restart_after=2)
    watch.observe(0, counts(5, 0, 0, 1, 0, 0))
    watch.observe(1, counts(5, 2, 0, 0, 0, 0))
    watch.restart(2, model, optimizer, average, [x])

    alive, dead = [0, 1, 3], [2, 4, 5]
    assert torch.equal(codebook[alive], before[alive])
    with torch.no_grad():
        z = model.quant_conv(model.encoder(x)).movedim(1, -1).flatten(0, -2)
    for row in codebook[dead]:
        assert (z - row).abs().sum(1).min() == 0
    assert torch.equal(average.quantize.embedding.weight[dead], codebook[dead])
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizer.state[codebook][key][alive], moments[key][alive])
        assert moments[key][dead].abs().min() > 0
        assert not optimizer.state[codebook][key][dead].any()
    assert watch.figures(2)[0]["restarted_codes"] == 3
    assert not watch.since_restart.any()
    watch.reset()
    assert watch.figures(2)[0]["restarted_codes"] == 0
