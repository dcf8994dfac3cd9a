"""Stage 2: training a transformer over a VQGAN's codes (Esser et al. 2021, Section 3.2).

    vqgan-fast train transformer.yaml first_stage=runs/photos data.train=photos
    vqgan-fast train transformer.yaml first_stage=runs/photos data.codes=photos.safetensors
    torchrun --nproc-per-node 2 -m vqgan_fast train transformer.yaml first_stage=runs/photos ...

Two processes train the same model as one process with twice their `data.batch_size`.
"""

from __future__ import annotations

from operator import itemgetter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqgan_fast.data import to_pixels, weights_fingerprint
from vqgan_fast.models import GPT, LatentTransformer, PixelSNAIL, WindowGPT
from vqgan_fast.models.code_logits import code_logits
from vqgan_fast.models.conditions import map_tokens

from .agreement import check_same, start_together
from .checkpoint_writer import CheckpointWriter
from .code_source import (
    SHOWN,
    CodeBatch,
    FileCodes,
    HeldOutCodes,
    PictureCodes,
    held_out_codes,
    replace_codes,
)
from .conditioning import Conditioning, drop_some, shuffled
from .config import ConfigError, GPTConfig, TransformerRun
from .data_wait import DataWait
from .distributed import Ranks, join_ranks
from .evaluation import held_out_nll, predictions
from .first_checkpoint import first_checkpoint
from .first_stage import load_first_stage
from .meter import Meter
from .optimization import accumulating, autocast, averaged, learning_rate
from .run_folder import CHECKPOINTS, TrainingResult, create_run_folder, find_checkpoint
from .run_lock import locked
from .run_log import RunLog
from .sharding import checkpoint_activations, shard, whole_state_dict
from .skipped import SkippedFiles
from .stopping import StopRequest
from .training_pictures import training_pictures
from .training_state import TrainingState, check_finite, module_tensors, named_tensors


def train_transformer(config: TransformerRun) -> TrainingResult:
    """Train a transformer. All it writes is in config.run_dir, both stages in run_dir/model.

    Raises:
        ConfigError, DataError: what was asked for cannot be done.
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
        # The frozen first stage and the codes that it gives; and may the run's folder be used?
        checkpoint = find_checkpoint(config, ranks)
        vqgan = load_first_stage(config.first_stage).to(ranks.device)
        parts = config.condition.parts or [config.condition]
        files = training_pictures(data, ranks, parts) if data.codes is None else None
        conditioning = Conditioning(config, vqgan, pictures=files)
        condition = conditioning.stage.to(ranks.device)
        source_of_codes = PictureCodes if data.codes is None else FileCodes
        codes = source_of_codes(data, vqgan, conditioning, config.seed, ranks)
        frozen = weights_fingerprint(nn.ModuleList([vqgan, condition]))
        check_same({"the training data": codes.described, "the frozen VQGAN": frozen}, ranks)
        held_out = held_out_codes(codes)
        shown = next(codes.batches(0)) if held_out is None else held_out

        # The transformer, with the same weights on every rank.
        torch.manual_seed(config.seed)
        vocab_size = max(vqgan.quantize.codebook_size, condition.vocab_size)
        null_token = vocab_size if config.cond_drop_prob else None
        vocab_size += null_token is not None
        cells = codes.grid[0] * codes.grid[1]
        length = condition.length(cells) + cells
        if config.gpt.n_unmasked > condition.length(cells):
            raise ConfigError(
                f"gpt.n_unmasked must be at most {condition.length(cells)}, the condition's "
                f"tokens, got {config.gpt.n_unmasked}"
            )
        gpt = build_transformer(config.transformer, config.gpt, vocab_size, length)
        gpt = gpt.to(ranks.device)
        average = averaged(gpt, optim.ema_decay)
        best = gpt if average is None else average.module  # the one that is measured and kept
        if optim.activation_checkpointing:
            checkpoint_activations([gpt])
        sharded = optim.sharded and ranks.world_size > 1
        if sharded:
            for module in [gpt] if average is None else [gpt, best]:
                shard(module, config, ranks)
        model = LatentTransformer(vqgan, condition, best, config.pkeep, null_token)
        rate = learning_rate(config, ranks)
        optimizer = torch.optim.AdamW(
            gpt.decay_groups(optim.weight_decay), rate, betas=(0.9, 0.95), fused=True
        )

        # What a checkpoint holds; the step and the sample to go on from.
        meter = Meter(["nll"], ranks.device)
        shared = {**named_tensors("gpt", gpt, optimizer), **module_tensors("average", average)}
        state = TrainingState(shared, {"meter": meter.totals}, ranks, codes.described, frozen)
        torch.manual_seed(config.seed + 1 + ranks.rank)  # dropout differs between ranks
        first, samples = (0, 0) if checkpoint is None else state.restore(checkpoint)
        run_dir = create_run_folder(config, ranks)

        gpt.train()
        parallel = gpt if sharded else ranks.parallel(gpt)
        wait = DataWait(ranks)
        source = wait.watch(codes.batches(samples))
        samples_per_step = data.batch_size * ranks.world_size * optim.accumulate
        with (
            RunLog(run_dir, cadence, first, optim.steps, samples_per_step, ranks) as log,
            StopRequest(optim.max_minutes, ranks) as stop,
            CheckpointWriter(
                run_dir / CHECKPOINTS, cadence.keep_checkpoints, ranks,
                cadence.checkpoint_in_background,
            ) as writer,
        ):  # fmt: skip
            skipped = SkippedFiles(codes.files, codes.kinds, ranks, log.warn)
            log.say(f"transformer over {codes.grid} codes, learning rate {rate:.3g}")
            stop.reserve_seconds = first_checkpoint(
                state, writer, checkpoint, optim.max_minutes, log
            )
            done = first
            for step in range(first, optim.steps):
                for micro in range(optim.accumulate):
                    batch = next(source)
                    skipped.add(batch.skipped)
                    inputs = replace_codes(
                        batch.codes, batch.positions, config.pkeep, vocab_size, config.seed
                    )
                    prefix = drop_some(
                        batch.condition, batch.positions, config.cond_drop_prob, null_token,
                        config.seed,
                    )  # fmt: skip
                    with accumulating(micro + 1 < optim.accumulate, parallel):
                        with autocast(config, ranks):
                            logits = code_logits(parallel, prefix, inputs)
                        nll = F.cross_entropy(logits.flatten(0, 1).float(), batch.codes.flatten())
                        (nll / optim.accumulate).backward()
                    meter.add({"nll": nll.detach()})
                optimizer.step()
                optimizer.zero_grad()
                if average is not None:
                    average.update_parameters(gpt)

                done, samples = step + 1, samples + samples_per_step
                log.advance()
                stopping = stop.agreed() or done == optim.steps
                if stopping or done % cadence.every == 0:
                    values = {**meter.means(ranks), "skipped_images": skipped.report()}
                    values["data_wait"] = wait.share()
                    if held_out is not None:
                        with autocast(config, ranks):
                            values |= held_out_figures(best, held_out, data.batch_size, ranks)
                    log.metrics(done, {**values, "lr": rate, "minutes": stop.minutes})
                    check_finite("nll", values["nll"], done)
                if done % cadence.every == 0:
                    meter.reset()
                if stopping or done % cadence.images_every == 0:
                    log.pictures(done, pictures(model, shown))
                if stopping or done % cadence.checkpoint_every == 0:
                    before = stop.minutes
                    state.save(writer, done, samples)
                    weights = whole_state_dict(best)
                    if ranks.is_main:
                        model.save_pretrained(run_dir / "model", weights)
                    stop.reserve_seconds = max(writer.seconds, 60 * (stop.minutes - before))
                if stopping:
                    break
            writer.finish()
            if stop.warning():
                log.warn(stop.warning())
            log.farewell(stop.reason())
        stop.raise_if_interrupted()
        return TrainingResult(run_dir, done, log.last)


def build_transformer(
    kind: str, config: GPTConfig, vocab_size: int, length: int
) -> GPT | WindowGPT | PixelSNAIL:
    """The transformer that `transformer` names; `length` is for a GPT."""
    sizes = dict(vars(config))
    if kind == "gpt":
        return GPT(vocab_size, length, **sizes)
    del sizes["n_unmasked"], sizes["ordering"]
    return (WindowGPT if kind == "window_gpt" else PixelSNAIL)(vocab_size, **sizes)


def held_out_figures(
    gpt: GPT | WindowGPT, held_out: HeldOutCodes, batch_size: int, ranks: Ranks
) -> dict[str, float]:
    """val_nll, nats per code; with a condition also val_nll_shuffled, of the pictures with each
    other's conditions: what the condition says of its own picture is the difference."""
    codes, condition = held_out.codes, held_out.condition
    figures = {"val_nll": held_out_nll(gpt, condition, codes, batch_size, ranks)}
    if held_out.drawn and len(codes) > 1:
        others = shuffled(condition)
        figures["val_nll_shuffled"] = held_out_nll(gpt, others, codes, batch_size, ranks)
    return figures


@torch.no_grad()
def pictures(model: LatentTransformer, shown: CodeBatch | HeldOutCodes) -> list[Tensor]:
    """Rows of uint8 pictures (B, 3, S, S): conditions, codes decoded, and what was predicted.

    The last row decodes the likeliest code at each place given the true codes before it. Codes are
    decoded one picture at a time: all at once could take more memory than a step does.
    """
    codes = shown.codes[:SHOWN]
    condition = map_tokens(itemgetter(slice(SHOWN)), shown.condition)
    likeliest = predictions(model.transformer, condition, codes)
    # A vocabulary may hold condition tokens that are no codes of the first stage.
    likeliest = likeliest.clamp_max(model.first_stage_model.quantize.codebook_size - 1)
    vqgan = model.first_stage_model
    decoded = [
        torch.cat([to_pixels(vqgan.decode_indices(one)) for one in indices.split(1)])
        for indices in (codes, likeliest)
    ]
    drawn = shown.drawn if isinstance(shown, HeldOutCodes) else []
    return [row for row in drawn if row.shape == decoded[0].shape] + decoded
