"""What a plan assumes where it is not told; apart, as the command's help loads no torch."""

# Of a CUDA context, the workspaces of cuBLAS and cuDNN, NCCL's buffers and what the caching
# allocator cannot use: assumed, not measured.
RESERVE_GIB = 2.0
LINK_GBYTES = 12.5  # a link of 100 Gbit/s
