"""Sampling on an NVIDIA GPU: the codes of the CPU, by steps that become CUDA graphs."""

from __future__ import annotations

import pytest
import torch

from vqgan_fast._library import CUDA_LIBRARY, load_libraries
from vqgan_fast.models import GPT, WindowGPT
from vqgan_fast.sampling import sample_codes
from vqgan_fast.sampling.capture import CapturedSteps

STATUS = {status.name: status for status in load_libraries()}[CUDA_LIBRARY]
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(not STATUS.loaded, reason=f"{CUDA_LIBRARY}: {STATUS.reason}"),
]
# The second while the first is the current device.
DEVICES = pytest.mark.parametrize(
    "device",
    [
        "cuda:0",
        pytest.param(
            "cuda:1",
            marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs"),
        ),
    ],
)
NETWORKS = {
    "window": lambda: GPT(24, 31, n_layer=2, n_head=2, n_embd=32),
    "native": lambda: WindowGPT(24, n_layer=2, n_head=2, n_embd=32, reach=3),
}


@DEVICES
def test_a_graph_does_what_its_step_does(device):
    table = torch.zeros(100, device=device)

    def step(tensors):
        places, values = tensors
        table[places] = values.square() + 1

    captured = CapturedSteps(torch.device(device))
    assert captured.is_on
    for first in range(0, 90, 30):  # by itself, captured, from the graph
        places = torch.arange(first, first + 30, device=device)
        captured(step, [places, places.float()], key=None)
    assert len(captured.graphs) == 1
    expected = torch.cat([torch.arange(90).float().square() + 1, torch.zeros(10)])
    assert torch.equal(table.cpu(), expected)


@DEVICES
@pytest.mark.parametrize("network", NETWORKS)
def test_codes_are_the_cpus(network, device):
    model = NETWORKS[network]().eval()
    for name, parameter in model.named_parameters():
        if "ln" not in name:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    cond, seeds = torch.tensor([[3], [17], [5]]), torch.arange(3) + 100
    options = {"top_k": 12, "top_p": 0.95, "seeds": seeds, "window": 4}
    expected = sample_codes(model, cond, (6, 7), **options)
    assert len(expected.unique()) > 4
    found = sample_codes(model.to(device), cond.to(device), (6, 7), **options)
    assert torch.equal(found.cpu(), expected)
