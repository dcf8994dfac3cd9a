"""Batch normalisation whose training statistics are those of all ranks' batches together.

On CUDA that is torch.nn.SyncBatchNorm, which refuses CPU tensors; `SyncBatchNorm2d` does the same
on the CPU with two differentiable all-reduces.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..quantizers.ranks import world_size


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the batches of all ranks; parameters, buffers and keys are the same.

    In training every rank must call it, in the same order, with one or more images. In eval mode,
    and where torch.distributed has one rank or is not initialised, it is plain BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, H, W) in x's dtype; statistics in fp32 or better.

        Raises:
            ValueError: in training, one value per channel in all ranks' batches together.
        """
        if not self.training or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        x_wide = x.to(torch.promote_types(x.dtype, torch.float32))
        sums = x_wide.sum((0, 2, 3))
        total = _AllReduceSum.apply(torch.cat([sums, sums.new_tensor([x.numel() / x.shape[1]])]))
        count = total[-1].detach()
        # Asking a device for the count would make the host wait, so only where it may be so low.
        if x.numel() <= x.shape[1] and count < 2:
            raise ValueError(
                "x must have more than 1 value per channel on all ranks together in training, got "
                f"{int(count)}"
            )
        mean = (total[:-1] / count).view(1, -1, 1, 1)
        centred = x_wide - mean
        var = _AllReduceSum.apply(centred.square().sum((0, 2, 3))) / count
        self._update_running(mean.detach().flatten(), var.detach(), count)
        y = centred * (var + self.eps).rsqrt().view(1, -1, 1, 1)
        if self.affine:
            y = y * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return y.to(x.dtype)

    def _update_running(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        if not self.track_running_stats:
            return
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = (
                1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            )
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            unbiased = var * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def convert(module: nn.Module) -> nn.Module:
    """Gives `module` batch statistics over all ranks, where there is more than one.

    Every BatchNorm2d becomes torch.nn.SyncBatchNorm if the module lives on CUDA and SyncBatchNorm2d
    otherwise, with the same parameters, buffers and state-dict keys. Call it after the move to the
    device and before DistributedDataParallel.

    Returns:
        the converted module (`module` itself unless it is a BatchNorm2d on CUDA).
    """
    if world_size() == 1:
        return module
    if any(parameter.is_cuda for parameter in module.parameters()):
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for batch_norm in module.modules():
        if type(batch_norm) is nn.BatchNorm2d:
            # The subclass adds no state: a change of class keeps parameters, hooks and optimizers.
            batch_norm.__class__ = SyncBatchNorm2d
    return module


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks; the gradient of a sum that every rank uses is the sum of their gradients.

    As torch.distributed.nn.functional.all_reduce, which torch 2.14 deprecates.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _AllReduceSum.apply(grad.contiguous())
