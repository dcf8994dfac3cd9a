#!/bin/sh
# nvcc for a wheel, into a manylinux_2_28 image (a RHEL 8): VQGAN_FAST_CUDA_VERSION, such as 12.9,
# from NVIDIA's packages. Nothing for a wheel without CUDA.
set -eu
[ "${VQGAN_FAST_CUDA:-auto}" != 0 ] || exit 0
: "${VQGAN_FAST_CUDA_VERSION:?must be the CUDA to build with, such as 13.0 or 12.9}"
version=$(echo "$VQGAN_FAST_CUDA_VERSION" | tr . -)
repository=https://developer.download.nvidia.com/compute/cuda/repos/rhel8/$(uname -m)/cuda-rhel8.repo
dnf install -y dnf-plugins-core
dnf config-manager --add-repo "$repository"
dnf install -y "cuda-nvcc-$version" "cuda-cudart-devel-$version"
ln -sfn "/usr/local/cuda-$VQGAN_FAST_CUDA_VERSION" /usr/local/cuda
/usr/local/cuda/bin/nvcc --version
# Does it take this image's g++? Each CUDA knows a newest one.
echo '__global__ void nothing() {}' > /tmp/nothing.cu
/usr/local/cuda/bin/nvcc -c /tmp/nothing.cu -o /tmp/nothing.o
