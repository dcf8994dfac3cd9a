"""Stage 1: training a VQGAN (Esser, Rombach, Ommer, CVPR 2021, Section 3.1).

    vqgan-fast train vqgan.yaml data.train=photos run_dir=runs/photos
    vqgan-fast train vqgan.yaml data.train=photos run_dir=runs/photos resume=true
    torchrun --nproc-per-node 2 -m vqgan_fast train vqgan.yaml data.train=photos run_dir=runs/photos

Two processes train the same model as one process with twice their `data.batch_size`, but for what
dropout and a Gumbel quantiser draw: each process draws for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from vqgan_fast.data import Batch, batches, data_fingerprint
from vqgan_fast.losses import PerceptualLoss, SegmentationLoss, VQGANLoss
from vqgan_fast.models import VQGAN
from vqgan_fast.models.sync_batch_norm import convert

from .agreement import check_same
from .check_sizes import check_discriminator, check_perceptual
from .codebook_monitor import CodebookMonitor
from .config import LossConfig, VQGANRun
from .distributed import Ranks
from .evaluation import evaluating, reconstruction_figures
from .loop import train
from .meter import Meter
from .optimization import accumulating, autocast, averaged, learning_rate
from .run_folder import TrainingResult
from .sharding import checkpoint_activations
from .training_crops import TrainingCrops
from .training_state import TrainingState, module_tensors, named_tensors

LOSSES = {
    "vqgan": (
        "total_loss", "rec_loss", "p_loss", "nll_loss", "quant_loss", "g_loss", "d_weight",
        "disc_factor", "disc_loss", "logits_real", "logits_fake",
    ),
    "segmentation": ("total_loss", "rec_loss", "quant_loss", "accuracy"),
}  # fmt: skip
PICTURES = 8  # in a grid


def train_vqgan(config: VQGANRun) -> TrainingResult:
    """Train a VQGAN. All that it writes is in config.run_dir, the model itself in run_dir/vqgan.

    Raises:
        ConfigError, DataError, PerceptualWeightsError: what was asked for cannot be done.
        CheckpointError: none of the checkpoints of the run to be resumed can be read, or one
            cannot be written.
        FloatingPointError: the loss is no longer finite.
        RunWriteError: something else than a checkpoint cannot be written.
        TrainingInterrupted: SIGINT or SIGTERM came; a checkpoint has been written.
    """
    return train(VQGANStage, config)


class VQGANStage:
    """The VQGAN and its loss in training: a `loop.Stage`; every rank makes it."""

    loss_name, export_name = "total_loss", "vqgan"

    def __init__(self, config: VQGANRun, ranks: Ranks) -> None:
        check_discriminator(config)
        check_perceptual(config)
        self.config, self.ranks = config, ranks
        self.crops = crops = TrainingCrops(config.data, config.seed, ranks)
        described = data_fingerprint(crops.stream.files, crops.kinds)
        check_same({"the training data": described}, ranks)
        self.shown = crops.first(PICTURES) if crops.held_out is None else crops.held_out[:PICTURES]
        self.files, self.kinds = crops.stream.files, crops.kinds
        self._build_models()

        # What a checkpoint holds.
        self.monitor = CodebookMonitor(
            self.model.quantize.num_codes, config.codebook, config.seed, ranks
        )
        self.meter = Meter(LOSSES[config.loss.kind], ranks.device)
        shared = {
            **named_tensors("model", self.model, self.optimizer),
            **module_tensors("average", self.average),
            **self.monitor.tensors(),
        }
        if self.game:
            shared |= named_tensors("discriminator", self.loss.discriminator, self.disc_optimizer)
        self.state = TrainingState(
            shared, {"meter": self.meter.totals}, ranks, config.data.batch_size, described
        )

    def _build_models(self) -> None:
        """The models, with the same weights on every rank, and their optimizers."""
        config, ranks = self.config, self.ranks
        torch.manual_seed(config.seed)
        self.model = VQGAN(**config.vqgan_arguments()).to(ranks.device)
        self.loss = build_loss(config.loss, self.crops.channels).to(ranks.device)
        self.game = self.loss.discriminator is not None
        if self.game:  # with batch statistics over all ranks
            self.loss.discriminator = convert(self.loss.discriminator)
        self.average = averaged(self.model, config.optim.ema_decay)
        # The one that is measured and kept.
        self.best = self.model if self.average is None else self.average.module
        if config.optim.activation_checkpointing:
            checkpoint_activations([self.model])
        self.rate = learning_rate(config, ranks)
        self.optimizer = adam(self.model, self.rate)
        self.disc_optimizer = adam(self.loss.discriminator, self.rate) if self.game else None

    def start(self, samples: int) -> Iterator[Batch]:
        """The models on all ranks, and the batches after so many samples."""
        data, ranks = self.config.data, self.ranks
        self._autoencoder = ranks.parallel(self.model)
        self._discriminator_loss = (
            ranks.parallel(DiscriminatorLoss(self.loss)) if self.game else None
        )
        return batches(
            self.crops.stream, data.batch_size, start=samples, rank=ranks.rank,
            world_size=ranks.world_size, pin_memory=ranks.on_cuda,
            num_workers=0 if data.cache else data.num_workers,
        )  # fmt: skip

    def describe(self) -> str:
        """What is trained, and with which loss."""
        return (
            f"VQGAN f{self.model.downsampling_factor}, learning rate {self.rate:.3g}, "
            f"{describe(self.loss)}"
        )

    def step(self, step: int, next_batch: Callable[[], Batch]) -> None:
        """One step of both optimizers, and new life for dead codes where it is due."""
        accumulate, with_gan = self.config.optim.accumulate, self.loss.gan_is_on(step)
        counts = torch.zeros_like(self.monitor.since_restart)
        restart, parts = self.monitor.restart_is_due(step + 1), []
        for micro in range(accumulate):
            x = self.crops.model_input(self.crops.raw(next_batch()), self.ranks.device)
            parts += [x] if restart else []
            counts += self._backward(x, step, with_gan, more_to_come=micro + 1 < accumulate)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if with_gan:
            self.disc_optimizer.step()
            self.disc_optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.monitor.observe(step, counts)
        if restart:
            average = None if self.best is self.model else self.best
            self.monitor.restart(step + 1, self.model, self.optimizer, average, parts)

    def _backward(self, x: Tensor, step: int, with_gan: bool, more_to_come: bool) -> Tensor:
        """Gradients of one micro-batch for both; how often each code was used, (K,)."""
        config, ranks, loss = self.config, self.ranks, self.loss
        parallel = [self._autoencoder, self._discriminator_loss][: 1 + self.game]
        with accumulating(more_to_come, *parallel):
            # The generator's turn; the discriminator's weights take no gradient.
            with autocast(config, ranks):
                x_hat, quantizer_loss, info = self._autoencoder(x)
                g_loss, logs = loss.generator_loss(
                    x, x_hat, quantizer_loss, self.model.last_layer, step
                )
            (g_loss / config.optim.accumulate).backward()
            # The discriminator's turn, on the same reconstruction.
            if with_gan:
                with autocast(config, ranks):
                    d_loss, d_logs = self._discriminator_loss(x, x_hat.detach(), step)
                (d_loss / config.optim.accumulate).backward()
                logs |= d_logs
        self.meter.add(logs)
        return info.counts

    def figures(self, done: int) -> tuple[dict[str, float], str | None]:
        """Those of the codebook, and a warning if it collapses."""
        return self.monitor.figures(done)

    def held_out_figures(self) -> dict[str, float]:
        """How well held-out crops are reconstructed; nothing without any."""
        if self.crops.held_out is None:
            return {}
        return reconstruction_figures(
            self.best, self.crops, self.config.data.batch_size, self.ranks
        )

    def start_interval(self) -> None:
        """Begin the next interval of the log."""
        self.meter.reset()
        self.monitor.reset()

    def pictures(self) -> list[Tensor]:
        """Crops, and what the model makes of them."""
        return pictures(self.best, self.crops, self.shown, self.ranks.device)

    def export(self) -> Callable[[Path], None]:
        """What writes the VQGAN."""
        return self.best.save_pretrained


class DiscriminatorLoss(nn.Module):
    """The discriminator's loss as a module that owns the discriminator's weights and no others.

    DistributedDataParallel wants one forward of the module it wraps for each backward; the loss
    runs the discriminator twice in it, and once more in the generator's turn, outside.
    """

    def __init__(self, loss: VQGANLoss) -> None:
        super().__init__()
        self.discriminator = loss.discriminator
        self._loss = (loss,)  # in a tuple, so that its other weights are not this module's

    def forward(self, x: Tensor, x_hat: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self._loss[0].discriminator_loss(x, x_hat, step)


def build_loss(config: LossConfig, channels: int) -> VQGANLoss | SegmentationLoss:
    """The loss of a configuration, with its discriminator and perceptual network.

    Args:
        channels: of what is reconstructed.

    Raises:
        PerceptualWeightsError: pretrained weights are asked for and cannot be had.
    """
    arguments = dict(vars(config))
    if arguments.pop("kind") == "segmentation":
        return SegmentationLoss(config.codebook_weight)
    net, weights = arguments.pop("perceptual_net"), arguments.pop("perceptual_weights")
    perceptual = PerceptualLoss(net, weights) if config.perceptual_weight > 0 else None
    return VQGANLoss(**arguments, disc_in_channels=channels, perceptual=perceptual)


def describe(loss: VQGANLoss | SegmentationLoss) -> str:
    """Which loss really runs, for the log."""
    if isinstance(loss, SegmentationLoss):
        return "cross-entropy of labels"
    if loss.perceptual_loss is None:
        return "no perceptual loss"
    return f"perceptual loss: {loss.perceptual_loss.description}"


def adam(module: nn.Module, rate: float) -> torch.optim.Adam:
    """The optimizer of the paper's code."""
    return torch.optim.Adam(module.parameters(), rate, betas=(0.5, 0.9), fused=True)


def pictures(model: VQGAN, crops: TrainingCrops, raw: Tensor, device: torch.device) -> list[Tensor]:
    """Two rows of uint8 pictures (B, 3, S, S): crops, and what the model makes of them.

    One by one, as all at once could take more memory than a step of few crops does.
    """
    x = crops.model_input(raw, device)
    with evaluating(model, device):
        x_hat = torch.cat([model(one)[0] for one in x.split(1)])
    return [crops.draw(x), crops.draw(x_hat)]
