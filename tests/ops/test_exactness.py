"""A share of `benchmarks/check_exact.py`, and that it sees what it looks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from search_cases import CASES, oracle

from vqgan_fast import ops

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def check_exact(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import check_exact

    return check_exact


def test_indices_are_those_of_fp64_on_many_rows() -> None:
    command = [sys.executable, str(BENCHMARKS / "check_exact.py"), "--rows", "5e4", "--quiet"]
    path = os.pathsep.join([str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert ": 0 indices differ from fp64." in finished.stdout


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("data", ["near_tied", "trained"])
def test_a_wrong_index_is_found_and_can_be_had_again(
    data: str,
    check_exact: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    block = check_exact.Block(data, 100, 8, 0, 500)

    def one_wrong(z: torch.Tensor, codebook: torch.Tensor, parts: int = 1) -> torch.Tensor:
        indices = ops.nearest_code(z, codebook, return_distance=False)
        row = 321 if len(z) == block.rows else 12  # of the first search, of the second
        indices[row] = (indices[row] + 1) % len(codebook)
        return indices

    monkeypatch.setattr(check_exact, "search", one_wrong)
    assert check_exact.run([block], seed=3, processes=1, quiet=True) == 1
    output = capsys.readouterr()
    assert "1 of 500 indices differ" in output.out + output.err
    assert "First in row 321" in output.out + output.err
    assert "1 of 125 indices differ" in output.out + output.err
    assert "First in row 12:" in output.out + output.err
    assert f"--seed 3 --block {block.name}" in output.out + output.err
    assert check_exact.parse_block(block.name) == block
    assert all(map(torch.equal, block.tensors(3), block.tensors(3)))


@pytest.mark.usefixtures("restore_threads")
def test_trust_in_fp32_scores_is_found_out(
    check_exact: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def by_scores(z: torch.Tensor, codebook: torch.Tensor, parts: int = 1) -> torch.Tensor:
        half_squares = 0.5 * codebook.square().sum(1)
        return torch.addmm(half_squares, z, codebook.t(), alpha=-1).argmin(1)

    monkeypatch.setattr(check_exact, "search", by_scores)
    block = check_exact.Block("near_tied", 256, 8, 0, 2000)
    report = tmp_path / "exactness.md"
    assert check_exact.run([block], seed=0, processes=1, quiet=True, report=report) == 1
    assert json.loads(report.with_suffix(".json").read_text())["total"]["wrong"] > 0
    assert "| near_tied | 2,000 |" in report.read_text()


def test_every_setting_comes_up(check_exact: ModuleType) -> None:
    count = len(check_exact.levels()) * 5 * 8 * 5 * 5
    assert len({check_exact.setting(number) for number in range(count)}) == count


@pytest.mark.parametrize("case", sorted(CASES.keys() - {"not_finite", "no_finite_code", "all_nan"}))
@pytest.mark.parametrize("guess", ["right", "wrong", "none"])
def test_the_judge_agrees_with_the_definition(
    case: str, guess: str, check_exact: ModuleType
) -> None:
    z, codebook = CASES[case](150, 200, 9)
    expected = oracle(z, codebook)[0]
    guesses = {"right": expected, "wrong": torch.arange(150), "none": None}
    indices, scalar = check_exact.fp64_judge.nearest(z, codebook, guesses[guess])
    assert torch.equal(indices, expected)
    if case in ("gaussian", "offset", "vqgan_init"):
        assert scalar == 0
