"""What the tests on a GPU get, held without one: other inputs in every run, poisoned outputs."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("test_*on_gpu.py"))
# Of graphs alone: nothing of ours writes in them.
NOT_POISONED = {
    "test_a_graph_does_what_its_step_does",
    "test_other_threads_go_on_while_steps_are_captured",
}


@pytest.mark.parametrize("name", MODULES)
def test_every_test_on_a_gpu_has_fresh_inputs_and_poisoned_outputs(name):
    module = importlib.import_module(name)
    tests = {key: value for key, value in vars(module).items() if key.startswith("test_")}
    assert tests
    for key, test in tests.items():
        marks = [*module.pytestmark, *getattr(test, "pytestmark", [])]
        used = {fixture for mark in marks if mark.name == "usefixtures" for fixture in mark.args}
        assert "fresh_inputs" in used, key
        assert used & {"poisoned", "poisoned_steps"} or key in NOT_POISONED, key


def test_inputs_are_those_of_the_seed_that_is_printed(capsys, request):
    request.getfixturevalue("fresh_inputs")
    assert f"VQGAN_FAST_TEST_SEED={torch.initial_seed()}\n" in capsys.readouterr().out
    assert torch.initial_seed() != 0, "as in all other tests"


def test_steps_that_are_captured_write_by_index_as_ever(poisoned_steps):
    """And what is left uninitialised stays poisoned."""
    seen = []

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.index_put_.default:
                seen.append(torch.are_deterministic_algorithms_enabled())
            return func(*args, **(kwargs or {}))

    table = torch.zeros(5)
    with Watched():
        table[torch.tensor([1, 3])] = torch.ones(2)
    assert seen == [False] and table.tolist() == [0, 1, 0, 1, 0]
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.empty(3).isnan().all()
