"""Sampling on an NVIDIA GPU: the codes of the CPU, by steps that become CUDA graphs."""

from __future__ import annotations

import threading

import pytest
import torch

from vqgan_fast._library import CUDA_LIBRARY, load_libraries
from vqgan_fast.models import GPT, PixelSNAIL, WindowGPT
from vqgan_fast.sampling import capture, sample_codes
from vqgan_fast.sampling.capture import CapturedSteps

STATUS = {status.name: status for status in load_libraries()}[CUDA_LIBRARY]
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(not STATUS.loaded, reason=f"{CUDA_LIBRARY}: {STATUS.reason}"),
    pytest.mark.usefixtures("fresh_inputs"),
]
# Not of the tests of graphs alone, in which nothing of ours writes.
POISONED = pytest.mark.usefixtures("poisoned_steps")
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


def test_other_threads_go_on_while_steps_are_captured():
    """A loader's thread allocates and asks for events, which a capture may forbid all threads."""
    stop, failures, held = threading.Event(), [], []

    def work():
        try:
            event = torch.cuda.Event()
            while not stop.is_set():
                event.record()
                event.query()
                if len(held) < 50:  # each so large that the allocator asks CUDA
                    held.append(torch.empty(1 << 25, dtype=torch.int8, device="cuda"))
        except RuntimeError as error:
            failures.append(error)

    table = torch.zeros(100, device="cuda")

    def step(tensors):
        table[tensors[0]] = tensors[0].float()

    captured = CapturedSteps(torch.device("cuda"))
    thread = threading.Thread(target=work)
    thread.start()
    try:
        for size in range(1, 40):
            for _ in range(2):
                captured(step, [torch.arange(size, device="cuda")], key=None)
    finally:
        stop.set()
        thread.join()
    assert len(captured.graphs) == 39 and failures == []


def randomized(model):
    for name, parameter in model.named_parameters():
        if "ln" not in name:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    return model.eval()


@POISONED
@DEVICES
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("more", [{}, {"weights": "bfloat16"}, {"guidance": 2.0}], ids=str)
def test_codes_are_the_cpus(network, device, more):
    model = randomized(NETWORKS[network]())
    cond, uncond, seeds = torch.tensor([[3], [17], [5]]), torch.tensor([[1]]), torch.arange(3) + 100
    options = {"top_k": 12, "top_p": 0.95, "seeds": seeds, "window": 4, **more}
    guided = "guidance" in more
    expected = sample_codes(model, cond, (6, 7), uncond=uncond if guided else None, **options)
    assert len(expected.unique()) > 4
    model, cond, uncond = (x.to(device) for x in (model, cond, uncond))
    found = sample_codes(model, cond, (6, 7), uncond=uncond if guided else None, **options)
    assert torch.equal(found.cpu(), expected)


@POISONED
@DEVICES
def test_graphs_change_no_code_of_a_convolutional_model(device, monkeypatch):
    """Its logits are torch's, and so not the CPU's to the bit."""
    model = randomized(PixelSNAIL(24, n_layer=1, n_head=2, n_embd=32)).to(device)
    cond = torch.tensor([[3], [17]], device=device)
    options = {"top_k": 12, "seeds": torch.arange(2), "return_logprobs": True}
    captured = []
    original = CapturedSteps._capture

    def spy(self, step, inputs):
        captured.append(step)
        return original(self, step, inputs)

    monkeypatch.setattr(CapturedSteps, "_capture", spy)
    codes, logprobs = sample_codes(model, cond, (5, 6), **options)
    assert captured
    monkeypatch.setattr(capture, "has_kernel", lambda *_: False)
    expected = sample_codes(model, cond, (5, 6), **options)
    assert torch.equal(codes, expected[0]) and len(codes.unique()) > 4
    torch.testing.assert_close(logprobs, expected[1])
