"""Stage 1 with each of the quantisers, chosen by the configuration."""

from __future__ import annotations

import shutil

import pytest
from tiny import read_metrics, vqgan_run

from vqgan_fast import VQGAN
from vqgan_fast.quantizers import QUANTIZERS
from vqgan_fast.train import ConfigError, train


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ema", {"decay": 0.9, "restart_below": 0.01}),
        ("residual", {"num_quantizers": 2}),
        ("hierarchical", {"channels": 8}),
        ("cosine", {}),
        ("simvq", {}),
        ("gumbel", {"kl_weight": 1e-3}),
    ],
)
def test_training_and_resuming(pictures, tmp_path, name: str, options: dict) -> None:
    common = {
        "model__quantizer": name, "model__quantizer_options": options, "log__checkpoint_every": 2,
        "optim__ema_decay": 0.5, "data__validation": str(pictures), "optim__steps": 4,
        "log__every": 2,
    }  # fmt: skip
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(vqgan_run(pictures, whole, **common))
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "step_000004")
    entries = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    (resumed / "metrics.jsonl").write_text(entries[0])
    train(vqgan_run(pictures, resumed, resume=True, **common))
    assert len(entries) == 2 and read_metrics(resumed) == read_metrics(whole)
    model = VQGAN.from_pretrained(tmp_path / "whole" / "vqgan")
    assert type(model.quantize) is QUANTIZERS[name]
    assert model.config["quantizer_options"] == options


def test_bad_choices(pictures, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"model\.quantizer must be one of vector, ema"):
        vqgan_run(pictures, tmp_path, model__quantizer="magic")
    with pytest.raises(ConfigError, match=r"quantizer_options must be empty .* got 'depth'"):
        vqgan_run(pictures, tmp_path, model__quantizer_options={"depth": 3})
    with pytest.raises(ConfigError, match=r"model\.quantizer_options: decay must lie in \[0, 1\)"):
        vqgan_run(
            pictures, tmp_path, model__quantizer="ema", model__quantizer_options={"decay": 2.0}
        )
    for name in ("ema", "residual", "simvq", "gumbel"):
        with pytest.raises(ConfigError, match="restart_dead_codes must be false with"):
            vqgan_run(pictures, tmp_path, model__quantizer=name, codebook__restart_dead_codes=True)
