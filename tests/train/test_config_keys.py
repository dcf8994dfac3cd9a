"""`vqgan-fast train --keys`: every key, its default and its comment."""

from __future__ import annotations

import pytest
import yaml
from omegaconf import OmegaConf

from vqgan_fast import cli
from vqgan_fast.train.config import STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_the_printed_keys_are_the_defaults(stage, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--keys", stage])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text) == OmegaConf.to_container(OmegaConf.structured(STAGES[stage]))
    assert ("beta on the codebook's term" in text) == (stage == "vqgan")  # in brackets there
    # What the source says beside a key, in lines above it, and of a table that it inherits.
    for told in (
        "run_dir: null  # everything of a run; refused",
        "# Samples of a step, over all",
        "accumulate: 1  # batches whose gradients",
        "# Maps that go with the pictures; with",
    ):
        assert told in text
    assert "field(" not in text and max(map(len, text.splitlines())) <= 104


def test_only_stages_have_keys(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--keys", "vqgans"])
    assert "invalid choice: 'vqgans'" in capsys.readouterr().err
