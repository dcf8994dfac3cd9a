"""What `soft_assign` refuses, on the CPU and where only shapes are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqgan_fast import ops


def bad_inputs() -> dict[str, tuple[dict, type, str]]:
    z, codebook = torch.zeros(5, 8), torch.zeros(9, 8)
    default = {"z": z, "codebook": codebook, "outputs": ("expected",)}
    cases = {
        "metric": (
            {"metric": "cosine"},
            ValueError,
            'metric must be "l2" or "dot", got \'cosine\'',
        ),
        "outputs": ({"outputs": ("lse",)}, ValueError, r"among log_sum_exp, .*, got \['lse'\]"),
        "no output": ({"outputs": ()}, ValueError, "outputs must be among .*, got none"),
        "one string": ({"outputs": "entropy"}, ValueError, "must be a collection such as"),
        "None": ({"outputs": None}, ValueError, "must be a collection such as .*, got None"),
        "learned temperature": (
            {"temperature": torch.ones((), requires_grad=True)},
            ValueError,
            "temperature must not require a gradient",
        ),
        "seed in words": (
            {"seed": "a"},
            TypeError,
            "seed must be an integer or a torch.Tensor, got",
        ),
        "unused values": (
            {"outputs": ("entropy",), "values": codebook},
            ValueError,
            'values are used by the output "expected" alone',
        ),
        "temperature": ({"temperature": 0.0}, RuntimeError, "must be positive and finite, got 0"),
        "NaN": ({"temperature": float("nan")}, RuntimeError, "must be positive and finite, got"),
        "D": ({"codebook": torch.zeros(9, 7)}, RuntimeError, r"with D = 8, got \(9, 7\)"),
        "heads": (
            {"codebook": torch.zeros(2, 9, 8)},
            RuntimeError,
            r"must be \(K, D\), got \(2, 9",
        ),
        "no codes": ({"codebook": codebook[:0]}, RuntimeError, "at least one code"),
        "integers": ({"z": z.long()}, RuntimeError, "z must be float16, bfloat16, float32 or"),
        "values": ({"values": torch.zeros(8, 3)}, RuntimeError, r"\(K, C\) with K = 9 .*\(8, 3\)"),
        "no columns": ({"values": torch.zeros(9, 0)}, RuntimeError, r"C >= 1, got \(9, 0\)"),
        "bias": ({"bias": torch.zeros(9, 1)}, RuntimeError, r"bias must be \(K,\) with K = 9"),
        "bias type": ({"bias": torch.zeros(9).long()}, RuntimeError, "bias must be float16"),
        "seed": ({"seed": torch.zeros(2).long()}, RuntimeError, r"seed must be one int64, got"),
        "seed type": (
            {"seed": torch.zeros(())},
            RuntimeError,
            "seed must be one int64, got torch.float32",
        ),
    }
    return {name: ({**default, **args}, *rest) for name, (args, *rest) in cases.items()}


@pytest.mark.parametrize("case", bad_inputs())
def test_bad_input_is_named(case: str) -> None:
    arguments, error, message = bad_inputs()[case]
    with pytest.raises(error, match=message):
        ops.soft_assign(**arguments)


@pytest.mark.parametrize("case", [x for x, (_, e, _) in bad_inputs().items() if e is RuntimeError])
def test_the_fake_kernel_and_the_definition_say_the_same(case: str) -> None:
    arguments, _, message = bad_inputs()[case]
    on_meta = {
        name: value.to("meta") if isinstance(value, Tensor) else value
        for name, value in arguments.items()
    }
    message = message.replace("Float", "torch.float")
    with pytest.raises(RuntimeError, match=message):
        ops.soft_assign(**on_meta)


def test_outputs_may_be_named_by_an_iterator() -> None:
    z, names = torch.randn(5, 8), ("indices", "expected")
    found = ops.soft_assign(z, z, outputs=iter(names))
    assert [name for name, value in found._asdict().items() if value is not None] == sorted(
        names, key=found._fields.index
    )
