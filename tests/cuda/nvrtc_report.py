"""Compiles every kernel for all architectures with the compiler of another CUDA, without its nvcc.

PyPI has no nvcc of CUDA 12, but its run-time compiler, which has the same front end, optimiser and
assembler:

    pip install --no-deps --target build/cuda12 nvidia-cuda-{nvrtc,runtime,nvcc}-cu12==12.9.*
    python tests/cuda/nvrtc_report.py build/cuda12

prints the table of resource_report.py for it, and fails where a kernel does not compile or spills.
Host code of the same files is compiled as if it were device code, and then left out of the result:
a launch is there declared as a function that takes its kernel's address.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path

from resource_report import ADVICE, ARCHS, ROOT, KernelReport, markdown_table, parse_report

KERNELS = ROOT / "csrc" / "kernels" / "cuda"
# What the kernels' headers name of the standard library, of which the compiler has nothing.
HEADERS = {
    "algorithm": "",
    "cmath": "",
    "cstddef": "",
    "cstdint": """
        typedef signed char int8_t; typedef unsigned char uint8_t;
        typedef short int16_t; typedef unsigned short uint16_t;
        typedef int int32_t; typedef unsigned int uint32_t;
        typedef long int64_t; typedef unsigned long uint64_t; typedef unsigned long uintptr_t;
        #define INT64_MAX 0x7fffffffffffffffL
    """,
    "cstring": "namespace std { using ::memcpy; }",
    "type_traits": """
        namespace std {
        template <bool, class A, class> struct conditional { using type = A; };
        template <class A, class B> struct conditional<false, A, B> { using type = B; };
        template <bool first, class A, class B>
        using conditional_t = typename conditional<first, A, B>::type;
        }
    """,
    "functional": """
        namespace std {
        template <class> class function;
        template <class R, class... A> class function<R(A...)> {
         public:
          template <class F> function(F);
          R operator()(A...) const;
        };
        }
    """,
    "optional": """
        namespace std {
        struct nullopt_t {};
        constexpr nullopt_t nullopt;
        template <class T> struct optional {
          T value; bool has;
          optional(nullopt_t) : value(), has(false) {}
          optional(T v) : value(v), has(true) {}
          explicit operator bool() const { return has; }
          T operator*() const { return value; }
        };
        }
    """,
    "vector": "namespace std { template <class T> class vector; }",
    "launches.h": """
        #include <cuda_runtime_api.h>
        template <class... P, class... A>
        cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t*, void (*)(P...), A&&...) {
          return cudaSuccess;
        }
        template <class K> cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, K);
        template <class K> cudaError_t cudaFuncSetAttribute(K, cudaFuncAttribute, int);
        cudaError_t cudaGetLastError();
    """,
}


class Nvrtc:
    def __init__(self, packages: Path):
        libraries = sorted(packages.glob("nvidia/**/libnvrtc.so.*"))
        self.includes = sorted(packages.glob("nvidia/*/include"))
        if not libraries or not self.includes:
            raise FileNotFoundError(
                f"{packages} must hold nvidia-cuda-nvrtc, -runtime and -nvcc, which the head of "
                f"{Path(__file__).name} installs; it has {[p.name for p in self.includes]}"
            )
        self.library = ctypes.CDLL(str(libraries[0]))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def compile(self, source: Path, arch: str) -> tuple[bool, str]:
        """Whether `source` compiles for `arch`, and what compiler and assembler told."""

        def strings(values):
            return (ctypes.c_char_p * len(values))(*(value.encode() for value in values))

        program = ctypes.c_void_p()
        rc = self.library.nvrtcCreateProgram(
            ctypes.byref(program),
            source.read_bytes(),
            str(source).encode(),
            len(HEADERS),
            strings(list(HEADERS.values())),
            strings(list(HEADERS)),
        )
        if rc != 0:
            raise RuntimeError(f"nvrtcCreateProgram failed with {rc}")
        options = [
            f"--gpu-architecture=sm_{arch}",
            "--std=c++17",
            "--fmad=false",
            "--device-as-default-execution-space",
            "--pre-include=launches.h",
            "--ptxas-options=-v",
            f"--include-path={ROOT / 'csrc'}",
            *(f"--include-path={folder}" for folder in self.includes),
        ]
        if arch == "90a":
            options.append("--define-macro=VQGAN_FAST_HAS_SM90A")
        rc = self.library.nvrtcCompileProgram(program, len(options), strings(options))
        size = ctypes.c_size_t()
        self.library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.library.nvrtcGetProgramLog(program, log)
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return rc == 0, log.value.decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "packages", type=Path, help="folder that pip installed NVIDIA's packages to"
    )
    nvrtc = Nvrtc(parser.parse_args().packages)
    reports: list[KernelReport] = []
    wrong: list[str] = []
    for source in sorted(KERNELS.glob("*.cu")):
        for arch in ("90a",) if source.name.startswith("sm90_") else ARCHS:
            compiled, log = nvrtc.compile(source, arch)
            found = parse_report(log)
            reports += found
            if not compiled or not found:
                wrong.append(f"{source.name} does not compile for sm_{arch}:\n{log}")
            wrong += [f"{source.name}, sm_{arch}: {advice}" for advice in ADVICE.findall(log)]
    wrong += [
        f"{r.name} has {r.local} bytes in local memory on sm_{r.arch}" for r in reports if r.local
    ]
    print(f"CUDA {nvrtc.version}, {len(reports)} kernels of all architectures\n")
    print(markdown_table(reports))
    if wrong:
        sys.exit("\n".join(["", *wrong]))


if __name__ == "__main__":
    main()
