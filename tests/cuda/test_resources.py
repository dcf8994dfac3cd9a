"""No kernel may spill registers or keep arrays in local memory on any architecture."""

from __future__ import annotations

import pytest
from resource_report import KernelReport, find_nvcc, known_archs, parse_report, resource_report

NVCC = find_nvcc()
SPILLING = """
ptxas info    : Compiling entry function '_ZN4cuda12_GLOBAL__N__13search_kernelE4Rows' for 'sm_90a'
ptxas info    : Function properties for _ZN4cuda12_GLOBAL__N__13search_kernelE4Rows
    8 bytes stack frame, 20 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers, 8 bytes cumulative stack size, 17664 bytes smem
"""


def test_the_parser_sees_spills():
    assert parse_report(SPILLING) == [KernelReport("search_kernel", "90a", 80, 17664, 44)]


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
def test_no_kernel_spills_or_uses_local_memory():
    reports = resource_report(NVCC)
    archs = known_archs(NVCC)
    names = {report.name for report in reports}
    assert {"search_kernel", "finish_kernel", "scatter_kernel", "stats_kernel"} <= names
    assert len(reports) == len(names) * len(archs)
    assert [report for report in reports if report.local > 0] == []
    # 48 KB is what a block gets everywhere without asking for more.
    assert [report for report in reports if report.shared > 48 << 10] == []
