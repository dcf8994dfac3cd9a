"""A share of `benchmarks/check_exact.py`, and that it sees what it looks for."""

from __future__ import annotations

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
pytest.importorskip("skimage")


@pytest.fixture
def check_exact(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import check_exact

    return check_exact


def test_indices_are_those_of_fp64_on_many_rows() -> None:
    command = [sys.executable, str(BENCHMARKS / "check_exact.py"), "--rows", "1e5", "--quiet"]
    path = os.pathsep.join([str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "0 blocks with a mismatch" in finished.stdout


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
        indices[321] = (indices[321] + 1) % len(codebook)
        return indices

    monkeypatch.setattr(check_exact, "search", one_wrong)
    assert check_exact.run([(5, block)], seed=3, quiet=True) == 1
    output = capsys.readouterr()
    assert "1 of 500 indices differ" in output.out + output.err
    assert "First in row 321" in output.out + output.err
    assert f"--seed 3 --block 5:{block.name}" in output.out + output.err
    assert check_exact.parse_block(f"5:{block.name}") == (5, block)
    assert all(map(torch.equal, block.tensors(3), block.tensors(3)))


@pytest.mark.parametrize("case", sorted(CASES.keys() - {"not_finite", "no_finite_code", "all_nan"}))
def test_the_judge_agrees_with_the_definition(case: str, check_exact: ModuleType) -> None:
    z, codebook = CASES[case](150, 200, 9)
    indices, scalar = check_exact.fp64_judge.nearest(z, codebook)
    assert torch.equal(indices, oracle(z, codebook)[0])
    if case in ("gaussian", "offset", "vqgan_init"):
        assert scalar == 0
