"""Stage 1: training a VQGAN (Esser, Rombach, Ommer, CVPR 2021, Section 3.1).

    vqgan-fast train vqgan.yaml data.train=photos run_dir=runs/photos
    vqgan-fast train vqgan.yaml data.train=photos run_dir=runs/photos resume=true
    torchrun --nproc-per-node 2 -m vqgan_fast train vqgan.yaml data.train=photos run_dir=runs/photos

Two processes train the same model as one process with twice their `data.batch_size`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqgan_fast.data import batches, data_fingerprint
from vqgan_fast.losses import PerceptualLoss, SegmentationLoss, VQGANLoss
from vqgan_fast.models import VQGAN
from vqgan_fast.models.sync_batch_norm import convert

from .agreement import check_same, start_together
from .checkpoint_writer import CheckpointWriter
from .codebook_monitor import CodebookMonitor
from .config import LossConfig, VQGANRun
from .data_wait import DataWait
from .distributed import join_ranks
from .evaluation import evaluating, reconstruction_figures
from .first_checkpoint import first_checkpoint
from .meter import Meter
from .optimization import accumulating, autocast, averaged, learning_rate
from .run_folder import CHECKPOINTS, TrainingResult, create_run_folder, find_checkpoint
from .run_lock import locked
from .run_log import RunLog
from .sharding import checkpoint_activations
from .skipped import SkippedFiles
from .stopping import StopRequest
from .training_crops import TrainingCrops
from .training_state import TrainingState, check_finite, module_tensors, named_tensors

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
        TrainingInterrupted: SIGINT or SIGTERM came; a checkpoint has been written.
    """
    with (
        join_ranks(config.device, config.rank_timeout_minutes) as ranks,
        locked(config.run_dir, ranks),
    ):
        config = start_together(config, ranks)
        data, optim, cadence = config.data, config.optim, config.log
        # The pictures; and may the run's folder be used?
        checkpoint = find_checkpoint(config, ranks)
        crops = TrainingCrops(data, config.seed, ranks)
        described = data_fingerprint(crops.stream.files, crops.kinds)
        check_same({"the training data": described}, ranks)
        shown = crops.first(PICTURES) if crops.held_out is None else crops.held_out[:PICTURES]

        # The models, with the same weights on every rank.
        torch.manual_seed(config.seed)
        model = VQGAN(**config.vqgan_arguments()).to(ranks.device)
        loss = build_loss(config.loss, crops.channels).to(ranks.device)
        game = loss.discriminator is not None
        if game:
            loss.discriminator = convert(loss.discriminator)  # batch statistics over all ranks
        average = averaged(model, optim.ema_decay)
        best = model if average is None else average.module  # the one that is measured and kept
        if optim.activation_checkpointing:
            checkpoint_activations([model])
        rate = learning_rate(config, ranks)
        optimizer = adam(model, rate)
        disc_optimizer = adam(loss.discriminator, rate) if game else None

        # What a checkpoint holds; the step and the sample to go on from.
        monitor = CodebookMonitor(model.quantize.num_codes, config.codebook, config.seed, ranks)
        meter = Meter(LOSSES[config.loss.kind], ranks.device)
        shared = {
            **named_tensors("model", model, optimizer),
            **module_tensors("average", average),
            **monitor.tensors(),
        }
        if game:
            shared |= named_tensors("discriminator", loss.discriminator, disc_optimizer)
        state = TrainingState(shared, {"meter": meter.totals}, ranks, described)
        torch.manual_seed(config.seed + 1 + ranks.rank)  # dropout differs between ranks
        first, samples = (0, 0) if checkpoint is None else state.restore(checkpoint)
        run_dir = create_run_folder(config, ranks)

        autoencoder = ranks.parallel(model)
        discriminator_loss = ranks.parallel(DiscriminatorLoss(loss)) if game else None
        parallel = [autoencoder, discriminator_loss] if game else [autoencoder]
        wait = DataWait(ranks)
        source = wait.watch(batches(
            crops.stream, data.batch_size, start=samples, rank=ranks.rank,
            world_size=ranks.world_size, pin_memory=ranks.on_cuda,
            num_workers=0 if data.cache else data.num_workers,
        ))  # fmt: skip
        samples_per_step = data.batch_size * ranks.world_size * optim.accumulate
        with (
            RunLog(run_dir, cadence, first, optim.steps, samples_per_step, ranks) as log,
            StopRequest(optim.max_minutes, ranks) as stop,
            CheckpointWriter(
                run_dir / CHECKPOINTS, cadence.keep_checkpoints, ranks,
                cadence.checkpoint_in_background,
            ) as writer,
        ):  # fmt: skip
            skipped = SkippedFiles(crops.stream.files, crops.kinds, ranks, log.warn)
            log.say(
                f"VQGAN f{model.downsampling_factor}, learning rate {rate:.3g}, {describe(loss)}"
            )
            stop.reserve_seconds = first_checkpoint(
                state, writer, checkpoint, optim.max_minutes, log
            )
            done = first
            for step in range(first, optim.steps):
                with_gan = loss.gan_is_on(step)
                counts = torch.zeros_like(monitor.since_restart)
                for micro in range(optim.accumulate):
                    batch = next(source)
                    skipped.add(batch.skipped)
                    x = crops.model_input(crops.raw(batch), ranks.device)
                    with accumulating(micro + 1 < optim.accumulate, *parallel):
                        # The generator's turn; the discriminator's weights take no gradient.
                        with autocast(config, ranks):
                            x_hat, quantizer_loss, info = autoencoder(x)
                            g_loss, logs = loss.generator_loss(
                                x, x_hat, quantizer_loss, model.last_layer, step
                            )
                        (g_loss / optim.accumulate).backward()
                        # The discriminator's turn, on the same reconstruction.
                        if with_gan:
                            with autocast(config, ranks):
                                d_loss, d_logs = discriminator_loss(x, x_hat.detach(), step)
                            (d_loss / optim.accumulate).backward()
                            logs |= d_logs
                    meter.add(logs)
                    counts += info.counts
                optimizer.step()
                optimizer.zero_grad()
                if with_gan:
                    disc_optimizer.step()
                    disc_optimizer.zero_grad()
                if average is not None:
                    average.update_parameters(model)

                done, samples = step + 1, samples + samples_per_step
                monitor.observe(step, counts)
                if monitor.restart_is_due(done):
                    monitor.restart(done, model, optimizer, None if best is model else best, x)
                log.advance()
                stopping = stop.agreed() or done == optim.steps
                if stopping or done % cadence.every == 0:
                    figures, collapse = monitor.figures(done)
                    values = {**meter.means(ranks), **figures, "skipped_images": skipped.report()}
                    values["data_wait"] = wait.share()
                    if crops.held_out is not None:
                        values |= reconstruction_figures(best, crops, data.batch_size, ranks)
                    log.metrics(done, {**values, "lr": rate, "minutes": stop.minutes})
                    if collapse is not None:
                        log.warn(collapse)
                    check_finite("total_loss", values["total_loss"], done)
                if done % cadence.every == 0:
                    meter.reset()
                    monitor.reset()
                if stopping or done % cadence.images_every == 0:
                    log.pictures(done, pictures(best, crops, shown, ranks.device))
                if stopping or done % cadence.checkpoint_every == 0:
                    before = stop.minutes
                    state.save(writer, done, samples)
                    if ranks.is_main:
                        best.save_pretrained(run_dir / "vqgan")
                    stop.reserve_seconds = max(writer.seconds, 60 * (stop.minutes - before))
                if stopping:
                    break
            writer.finish()
            if stop.warning():
                log.warn(stop.warning())
            log.farewell(stop.reason())
        stop.raise_if_interrupted()
        return TrainingResult(run_dir, done, log.last)


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
