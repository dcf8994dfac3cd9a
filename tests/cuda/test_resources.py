"""No kernel may spill registers or keep arrays in local memory, on any architecture built for."""

from __future__ import annotations

import pytest
from resource_report import (
    ADVICE,
    ROOT,
    KernelReport,
    kept_reports,
    kept_texts,
    kernel_name,
    parse_report,
)

KEPT = kept_reports()
SPILLING = """
ptxas info    : Compiling entry function '_ZN4cuda53_GLOBAL__N__8c_20_x_cu_ff0ea40611pack_kernelE4Rows' for 'sm_90a'
ptxas info    : Function properties for _ZN4cuda12_GLOBAL__N__113pack_kernelE4Rows
    8 bytes stack frame, 20 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers, 8 bytes cumulative stack size, 17664 bytes smem
ptxas info    : Compiling entry function '_ZN4cuda52_GLOBAL__N__c8_19_x_cu_ce1f578810mma_kernelILi2EEEvNS0_10SearchArgsE' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 224 registers, used 1 barriers, 664 bytes cmem[0], 8 bytes cmem[2]
ptxas info    : (C7519) warpgroup.arrive is injected in around line 341 by compiler to allow use of registers in GMMA
"""  # noqa: E501
TEMPLATES = {
    "_ZN4cuda12_GLOBAL__N__1a_9_x_cu_63f2f85613linear_kernelIaLi8EEEvNS_16PackedLinearArgsE": (
        "linear_kernel<int8_t, 8>"
    ),
    "_ZN4cuda12_GLOBAL__N__2_x_cu_933c216d13attend_kernelINS1_6WindowEEEvNS_4ArgsET_lf": (
        "attend_kernel<Window>"
    ),
    "_ZN4cuda12_GLOBAL__N__2_x_cu_933c216d13rotate_kernelEPfllPKfS4_": "rotate_kernel",
}


def test_the_parser_sees_spills():
    assert parse_report(SPILLING) == [
        KernelReport("pack_kernel", "90a", 80, 17664, 44),
        KernelReport("mma_kernel<2>", "80", 224, 0, 0),
    ]


def test_the_parser_sees_advice():
    (advice,) = ADVICE.findall(SPILLING)
    assert advice.startswith("(C7519) warpgroup.arrive is injected")


@pytest.mark.parametrize("mangled", TEMPLATES)
def test_names_of_instances(mangled):
    assert kernel_name(mangled) == TEMPLATES[mangled]


@pytest.mark.skipif(not KEPT, reason="built without nvcc, or not in this checkout")
def test_no_kernel_spills_or_uses_local_memory():
    sources = {path.name for path in (ROOT / "csrc" / "kernels" / "cuda").glob("*.cu")}
    reports = [report for reports in KEPT.values() for report in reports]
    archs = {report.arch for report in reports}
    if "90a" not in archs:
        sources = {name for name in sources if not name.startswith("sm90_")}
    assert {name for name, reports in KEPT.items() if reports} >= sources
    for source, of_source in KEPT.items():
        expected = {"90a"} if source.startswith("sm90_") else archs
        for name in {report.name for report in of_source}:
            assert {report.arch for report in of_source if report.name == name} == expected, name
    assert [report for report in reports if report.local > 0] == []
    # 48 KB is what a block gets everywhere without asking for more.
    assert [report for report in reports if report.shared > 48 << 10] == []


@pytest.mark.skipif(not KEPT, reason="built without nvcc, or not in this checkout")
def test_ptxas_takes_kernels_as_they_are_written():
    """It tells of wgmma that it puts one behind the other, of setmaxnreg that it ignores."""
    advice = {name: ADVICE.findall(text) for name, text in kept_texts().items()}
    assert {name: told for name, told in advice.items() if told} == {}
