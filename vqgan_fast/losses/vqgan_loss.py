"""Stage-1 loss of the VQGAN (Esser, Rombach, Ommer, CVPR 2021, Eq. 5 to 7).

Generator:      nll + lambda * disc_factor * g + codebook_weight * quantizer loss
    nll         mean |x - x_hat|, or (x - x_hat)^2, + perceptual_weight * LPIPS(x, x_hat)
    g           -mean D(x_hat)
    lambda      disc_weight * clamp(|grad nll| / (|grad g| + 1e-4), 0, 1e4), gradients at the
                decoder's last layer, averaged over ranks
Discriminator:  disc_factor * hinge (or vanilla) loss of D(x) against D(x_hat)

Both GAN terms are zero for the first `disc_start` generator steps.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vqgan_fast.models.discriminator import PatchGANDiscriminator
from vqgan_fast.quantizers.ranks import world_size

from .perceptual import PerceptualLoss

LAMBDA_MAX = 1e4
LAMBDA_DELTA = 1e-4  # of the reference's code; the paper prints 1e-6


def hinge_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """0.5 * (mean max(0, 1 - real) + mean max(0, 1 + fake)), a scalar."""
    return 0.5 * (F.relu(1.0 - logits_real).mean() + F.relu(1.0 + logits_fake).mean())


def vanilla_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """0.5 * (mean softplus(-real) + mean softplus(fake)), the log form of Eq. 5, a scalar."""
    return 0.5 * (F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean())


PIXEL_LOSSES = {"l1": F.l1_loss, "mse": F.mse_loss}
DISCRIMINATOR_LOSSES = {"hinge": hinge_loss, "vanilla": vanilla_loss}


class VQGANLoss(nn.Module):
    """Generator and discriminator losses of stage 1, with the discriminator and LPIPS inside.

    Args:
        disc_start: number of generator steps before both GAN terms begin.
        codebook_weight: weight of the quantizer's loss.
        perceptual_weight: weight of LPIPS; 0 leaves it out (no backbone is built).
        disc_weight: factor on the adaptive lambda.
        disc_factor: factor on both GAN terms; 0 switches the game off.
        disc_loss: "hinge" or "vanilla".
        disc_num_layers, disc_ndf, disc_in_channels, use_actnorm: of the PatchGAN discriminator.
        perceptual: the perceptual loss; None builds the paper's, `PerceptualLoss("vgg")`.
        pixel_loss: "l1", or "mse" as in VQ-VAE (which has neither LPIPS nor a discriminator:
            perceptual_weight = disc_factor = 0).

    Raises:
        ValueError: an unknown `disc_loss` or `pixel_loss`, a negative weight or factor, or what the
            discriminator refuses.
    """

    def __init__(
        self,
        disc_start: int,
        codebook_weight: float = 1.0,
        perceptual_weight: float = 1.0,
        disc_weight: float = 0.8,
        disc_factor: float = 1.0,
        disc_loss: str = "hinge",
        disc_num_layers: int = 3,
        disc_ndf: int = 64,
        disc_in_channels: int = 3,
        use_actnorm: bool = False,
        perceptual: PerceptualLoss | None = None,
        pixel_loss: str = "l1",
    ) -> None:
        super().__init__()
        if disc_loss not in DISCRIMINATOR_LOSSES:
            raise ValueError(
                f"disc_loss must be one of {', '.join(DISCRIMINATOR_LOSSES)}, got {disc_loss!r}"
            )
        if pixel_loss not in PIXEL_LOSSES:
            raise ValueError(
                f"pixel_loss must be one of {', '.join(PIXEL_LOSSES)}, got {pixel_loss!r}"
            )
        weights = {
            "codebook_weight": codebook_weight,
            "perceptual_weight": perceptual_weight,
            "disc_weight": disc_weight,
            "disc_factor": disc_factor,
        }
        for name, value in weights.items():
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        self.pixel_loss = PIXEL_LOSSES[pixel_loss]
        self.disc_start = disc_start
        self.codebook_weight = codebook_weight
        self.perceptual_weight = perceptual_weight
        self.disc_weight = disc_weight
        self.disc_factor = disc_factor
        self.disc_loss = DISCRIMINATOR_LOSSES[disc_loss]
        self.discriminator = PatchGANDiscriminator(
            in_channels=disc_in_channels,
            ndf=disc_ndf,
            n_layers=disc_num_layers,
            use_actnorm=use_actnorm,
        )
        self.perceptual_loss: PerceptualLoss | None = None
        if perceptual_weight > 0:
            self.perceptual_loss = PerceptualLoss("vgg") if perceptual is None else perceptual

    def gan_is_on(self, step: int) -> bool:
        """Whether the GAN terms count at generator step `step` (the first step is 0)."""
        return step >= self.disc_start and self.disc_factor > 0

    def generator_loss(
        self, x: Tensor, x_hat: Tensor, quantizer_loss: Tensor, last_layer: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the autoencoder at generator step `step`.

        The gradients of nll and g at x_hat are taken here, once, and serve both lambda and the
        caller's `backward()`: LPIPS and the discriminator are walked back a single time, and their
        graphs are freed before the decoder's backward begins. The discriminator's weights get no
        gradient from this loss. Where gradients are off, lambda is 0.

        If a gradient's norm is not finite, lambda is 0 and the GAN term is left out of that step;
        a non-finite nll still makes the loss non-finite, so that it is seen.

        Args:
            x, x_hat: images and their reconstructions, (B, C, H, W), in [-1, 1].
            quantizer_loss: the quantizer's loss; its mean enters.
            last_layer: weight of the decoder's last convolution.
            step: number of generator steps taken so far.

        Returns:
            loss: scalar.
            logs: detached scalars total_loss, rec_loss, p_loss, nll_loss, g_loss, d_weight,
                disc_factor, quant_loss. rec_loss is the pixels' loss plus weighted LPIPS, as in the
                reference, and so equals nll_loss. g_loss is 0 while the GAN terms are off.

        Raises:
            ValueError: x and x_hat differ in shape; the GAN terms count and last_layer is frozen.
        """
        _check_pair(x, x_hat)
        with_grad = torch.is_grad_enabled() and x_hat.requires_grad
        leaf = _full_precision(x_hat.detach()).requires_grad_(with_grad)

        p_loss = leaf.new_zeros(())
        nll = self.pixel_loss(leaf, x)
        if self.perceptual_loss is not None:
            p_loss = self.perceptual_loss(x, leaf).to(nll.dtype).mean()
            nll = nll + self.perceptual_weight * p_loss
        value, gradient = nll.detach(), None
        if with_grad:
            (gradient,) = torch.autograd.grad(nll, leaf)

        g_loss = d_weight = leaf.new_zeros(())
        disc_factor = self.disc_factor if self.gan_is_on(step) else 0.0
        if disc_factor > 0:
            g_loss = -self.discriminator(leaf).to(nll.dtype).mean()
            if with_grad:
                (g_gradient,) = torch.autograd.grad(g_loss, leaf)
                d_weight, finite = self._adaptive_weight(x_hat, last_layer, gradient, g_gradient)
                scale = disc_factor * d_weight
                zero = leaf.new_zeros(())
                value = value + torch.where(finite, scale * g_loss.detach(), zero)
                gradient = gradient + torch.where(finite, scale * g_gradient, zero)

        nll_at_x_hat = value if gradient is None else _Known.apply(x_hat, value, gradient)
        loss = nll_at_x_hat + self.codebook_weight * quantizer_loss.mean()
        logs = {
            "total_loss": loss.detach(),
            "rec_loss": nll.detach(),
            "p_loss": p_loss.detach(),
            "nll_loss": nll.detach(),
            "g_loss": g_loss.detach(),
            "d_weight": d_weight,
            "disc_factor": torch.tensor(disc_factor, device=x.device),
            "quant_loss": quantizer_loss.detach().mean(),
        }
        return loss, logs

    def discriminator_loss(
        self, x: Tensor, x_hat: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the discriminator at generator step `step`; x_hat gets no gradient.

        While the GAN terms are off the discriminator is not run: the loss and every log are 0, and
        `backward()` on that loss leaves the discriminator's gradients untouched.

        Returns:
            loss: scalar.
            logs: detached scalars disc_loss, logits_real, logits_fake (means over the patches).
        """
        _check_pair(x, x_hat)
        if not self.gan_is_on(step):
            zero = torch.zeros((), device=x.device)
            off = torch.zeros((), device=x.device, requires_grad=True)
            return off, {"disc_loss": zero, "logits_real": zero, "logits_fake": zero}
        # Two passes, as in the reference: batch statistics of real and fake patches stay apart.
        logits_real = _full_precision(self.discriminator(x.detach()))
        logits_fake = _full_precision(self.discriminator(x_hat.detach()))
        loss = self.disc_factor * self.disc_loss(logits_real, logits_fake)
        logs = {
            "disc_loss": loss.detach(),
            "logits_real": logits_real.detach().mean(),
            "logits_fake": logits_fake.detach().mean(),
        }
        return loss, logs

    def _adaptive_weight(
        self, x_hat: Tensor, last_layer: Tensor, nll_gradient: Tensor, g_gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(lambda, whether both norms are finite), from the two gradients at x_hat."""
        if not last_layer.requires_grad:
            raise ValueError(
                "last_layer must require a gradient, as lambda compares gradients there; got a "
                "frozen one (disc_factor = 0 trains without the GAN terms)"
            )
        at_last_layer = torch.stack(
            [
                _full_precision(
                    torch.autograd.grad(
                        x_hat, last_layer, gradient.to(x_hat.dtype), retain_graph=True
                    )[0]
                )
                for gradient in (nll_gradient, g_gradient)
            ]
        )
        if world_size() > 1:
            dist.all_reduce(at_last_layer)
            at_last_layer /= world_size()
        nll_norm, g_norm = at_last_layer.flatten(1).norm(dim=1)
        finite = nll_norm.isfinite() & g_norm.isfinite()
        ratio = (nll_norm / (g_norm + LAMBDA_DELTA)).clamp(0.0, LAMBDA_MAX)
        return torch.where(finite, self.disc_weight * ratio, ratio.new_zeros(())), finite


class _Known(torch.autograd.Function):
    """A scalar function of x_hat whose value and gradient at x_hat are already known."""

    @staticmethod
    def forward(ctx, x_hat: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        # In full precision: a mean's gradient is below fp16's range until a loss scale lifts it.
        ctx.save_for_backward(gradient)
        ctx.dtype = x_hat.dtype
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_output).to(ctx.dtype), None, None


def _full_precision(x: Tensor) -> Tensor:
    """fp16 and bf16 to fp32; fp32 and fp64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_pair(x: Tensor, x_hat: Tensor) -> None:
    if x.shape != x_hat.shape:
        raise ValueError(
            f"x and x_hat must have the same shape, got {tuple(x.shape)} and {tuple(x_hat.shape)}"
        )
