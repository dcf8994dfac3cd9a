"""An environment that is set in part, or cannot be meant, is refused before a rank waits for it."""

from __future__ import annotations

import socket

import pytest

from vqgan_fast.train import ConfigError
from vqgan_fast.train.distributed import join_ranks
from vqgan_fast.train.rank_environment import RankEnvironment, rank_environment

TWO = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29511",
}  # fmt: skip
SLURM = ("SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")


@pytest.fixture
def environment(monkeypatch):
    """A function that sets these variables and no others of theirs."""
    for name in (*TWO, *SLURM):
        monkeypatch.delenv(name, raising=False)

    def set_all(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"RANK": "1"}, "sets RANK without WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "2"}, "sets WORLD_SIZE without RANK, MASTER_ADDR, MASTER_PORT"),
        ({"LOCAL_RANK": "0"}, "sets LOCAL_RANK without RANK, WORLD_SIZE"),
        ({**TWO, "MASTER_PORT": ""}, "MASTER_ADDR, LOCAL_RANK without MASTER_PORT"),
        ({**TWO, "WORLD_SIZE": "abc"}, "WORLD_SIZE must be an integer of 1 or more, got abc"),
        ({**TWO, "WORLD_SIZE": "0"}, "WORLD_SIZE must be an integer of 1 or more, got 0"),
        ({**TWO, "WORLD_SIZE": "-1"}, "WORLD_SIZE must be an integer of 1 or more, got -1"),
        ({**TWO, "RANK": "5"}, "RANK must be an integer from 0 to 1, got 5"),
        ({**TWO, "RANK": "-1"}, "RANK must be an integer from 0 to 1, got -1"),
        ({**TWO, "LOCAL_RANK": "1.5"}, "LOCAL_RANK must be an integer from 0 to 1, got 1.5"),
        ({**TWO, "MASTER_PORT": "abc"}, "MASTER_PORT must be an integer from 1 to 65535, got abc"),
        ({**TWO, "MASTER_PORT": "0"}, "MASTER_PORT must be an integer from 1 to 65535, got 0"),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, "srun .* 2 processes"),
    ],
)
def test_what_cannot_be_meant_is_refused(environment, given, message):
    environment(given)
    with (
        pytest.raises(ConfigError, match=rf"{message}.*start with torchrun"),
        join_ranks("cpu", 0.1),
    ):
        pass


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"WORLD_SIZE": ""},
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"},  # the shell of salloc
        {"SLURM_NTASKS": "8", "SLURM_STEP_ID": "4294967290"},  # and where it is a step of its own
        {"SLURM_NTASKS": "1", "SLURM_STEP_ID": "3"},
        {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "3"},
    ],
)
def test_one_process(environment, given):
    environment(given)
    assert rank_environment() == RankEnvironment(0, 1, 0, "")
    with join_ranks("cpu") as ranks:
        assert (ranks.rank, ranks.world_size) == (0, 1)


def test_what_torchrun_sets_under_srun(environment):
    environment({**TWO, "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"})
    assert rank_environment() == RankEnvironment(1, 2, 1, "127.0.0.1:29511")
    environment({"LOCAL_RANK": ""})
    assert rank_environment().local_rank == 0


def test_a_port_that_is_taken_is_told_as_such(environment):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment({**TWO, "MASTER_PORT": str(port), "RANK": "0"})
        expected = f"rank 0 of 2 cannot listen at 127.0.0.1:{port}: .* choose another MASTER_PORT"
        with pytest.raises(ConfigError, match=expected), join_ranks("cpu", 0.03):
            pass


@pytest.mark.parametrize("host", ["127.0.0.1", "nosuch.invalid"])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_ranks_that_do_not_find_each_other_say_where(environment, host, rank):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment({**TWO, "MASTER_ADDR": host, "MASTER_PORT": str(port), "RANK": rank})
    expected = f"rank {rank} of 2 did not find the others at {host}:{port} .* 0.03 minutes"
    with pytest.raises(ConfigError, match=expected), join_ranks("cpu", 0.03):
        pass
