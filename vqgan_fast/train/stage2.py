"""Stage 2: training a transformer over a VQGAN's codes (Esser et al. 2021, Section 3.2).

    vqgan-fast train transformer.yaml first_stage=runs/photos data.train=photos
    vqgan-fast train transformer.yaml first_stage=runs/photos data.codes=photos.safetensors
    torchrun --nproc-per-node 2 -m vqgan_fast train transformer.yaml first_stage=runs/photos ...

Two processes train the same model as one process with twice their `data.batch_size`, but for what
dropout draws: each process draws for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqgan_fast.data import to_pixels, weights_fingerprint
from vqgan_fast.models import GPT, LatentTransformer, PixelSNAIL, WindowGPT
from vqgan_fast.models.code_logits import code_logits
from vqgan_fast.models.conditions import map_tokens

from .agreement import check_same
from .check_sizes import check_unmasked
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
from .config import GPTConfig, TransformerRun
from .distributed import Ranks
from .evaluation import held_out_nll, predictions
from .first_stage import load_first_stage
from .loop import train
from .meter import Meter
from .optimization import accumulating, autocast, averaged, learning_rate
from .run_folder import TrainingResult
from .sharding import checkpoint_activations, shard, whole_state_dict
from .training_pictures import training_pictures
from .training_state import TrainingState, module_tensors, named_tensors


def train_transformer(config: TransformerRun) -> TrainingResult:
    """Train a transformer. All it writes is in config.run_dir, both stages in run_dir/model.

    Raises:
        ConfigError, DataError: what was asked for cannot be done.
        CheckpointError: none of the checkpoints of the run to be resumed can be read, or one
            cannot be written.
        FloatingPointError: the loss is no longer finite.
        RunWriteError: something else than a checkpoint cannot be written.
        TrainingInterrupted: SIGINT or SIGTERM came; a checkpoint has been written.
    """
    return train(TransformerStage, config)


class TransformerStage:
    """A transformer over the codes of a frozen VQGAN: a `loop.Stage`; every rank makes it."""

    loss_name, export_name = "nll", "model"

    def __init__(self, config: TransformerRun, ranks: Ranks) -> None:
        self.config, self.ranks = config, ranks
        frozen = self._load_codes()
        self.held_out = held_out_codes(self.codes)
        self.shown = next(self.codes.batches(0)) if self.held_out is None else self.held_out
        self.files, self.kinds = self.codes.files, self.codes.kinds
        self._build_models()

        # What a checkpoint holds.
        self.meter = Meter(["nll"], ranks.device)
        shared = {
            **named_tensors("gpt", self.gpt, self.optimizer),
            **module_tensors("average", self.average),
        }
        self.state = TrainingState(
            shared, {"meter": self.meter.totals}, ranks, config.data.batch_size,
            self.codes.described, frozen,
        )  # fmt: skip

    def _load_codes(self) -> str:
        """The frozen first stage and the codes that it gives; the fingerprint of what is frozen."""
        config, data, ranks = self.config, self.config.data, self.ranks
        self.vqgan = load_first_stage(config.first_stage).to(ranks.device)
        parts = config.condition.parts or [config.condition]
        files = training_pictures(data, ranks, parts) if data.codes is None else None
        conditioning = Conditioning(config, self.vqgan, pictures=files)
        self.condition = conditioning.stage.to(ranks.device)
        source_of_codes = PictureCodes if data.codes is None else FileCodes
        self.codes = source_of_codes(data, self.vqgan, conditioning, config.seed, ranks)
        frozen = weights_fingerprint(nn.ModuleList([self.vqgan, self.condition]))
        described = self.codes.described
        check_same({"the training data": described, "the frozen VQGAN": frozen}, ranks)
        return frozen

    def _build_models(self) -> None:
        """The transformer, with the same weights on every rank, and its optimizer."""
        config, optim, ranks = self.config, self.config.optim, self.ranks
        torch.manual_seed(config.seed)
        self.vocab_size = max(self.vqgan.quantize.codebook_size, self.condition.vocab_size)
        self.null_token = self.vocab_size if config.cond_drop_prob else None
        self.vocab_size += self.null_token is not None
        cells = self.codes.grid[0] * self.codes.grid[1]
        known = self.condition.length(cells)
        check_unmasked(config.gpt.n_unmasked, known)
        gpt = build_transformer(config.transformer, config.gpt, self.vocab_size, known + cells)
        self.gpt = gpt.to(ranks.device)
        self.average = averaged(self.gpt, optim.ema_decay)
        # The one that is measured and kept.
        self.best = self.gpt if self.average is None else self.average.module
        if optim.activation_checkpointing:
            checkpoint_activations([self.gpt])
        self.sharded = optim.sharded and ranks.world_size > 1
        if self.sharded:
            for module in [self.gpt] if self.average is None else [self.gpt, self.best]:
                shard(module, config, ranks)
        self.model = LatentTransformer(
            self.vqgan, self.condition, self.best, config.pkeep, self.null_token, self.codes.grid
        )
        self.rate = learning_rate(config, ranks)
        self.optimizer = torch.optim.AdamW(
            self.gpt.decay_groups(optim.weight_decay), self.rate, betas=(0.9, 0.95), fused=True
        )

    def start(self, samples: int) -> Iterator[CodeBatch]:
        """The transformer on all ranks, and the batches after so many samples."""
        self.gpt.train()
        self._parallel = self.gpt if self.sharded else self.ranks.parallel(self.gpt)
        return self.codes.batches(samples)

    def describe(self) -> str:
        """What is trained."""
        return f"transformer over {self.codes.grid} codes, learning rate {self.rate:.3g}"

    def step(self, step: int, next_batch: Callable[[], CodeBatch]) -> None:
        """One step of the optimizer."""
        accumulate = self.config.optim.accumulate
        for micro in range(accumulate):
            self._backward(next_batch(), more_to_come=micro + 1 < accumulate)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.gpt)

    def _backward(self, batch: CodeBatch, more_to_come: bool) -> None:
        """Gradients of one micro-batch."""
        config = self.config
        inputs = replace_codes(
            batch.codes, batch.positions, config.pkeep, self.vocab_size, config.seed
        )
        prefix = drop_some(
            batch.condition, batch.positions, config.cond_drop_prob, self.null_token, config.seed
        )
        with accumulating(more_to_come, self._parallel):
            with autocast(config, self.ranks):
                logits = code_logits(self._parallel, prefix, inputs)
            nll = F.cross_entropy(logits.flatten(0, 1).float(), batch.codes.flatten())
            (nll / config.optim.accumulate).backward()
        self.meter.add({"nll": nll.detach()})

    def figures(self, done: int) -> tuple[dict[str, float], str | None]:
        """None besides the loss."""
        return {}, None

    def held_out_figures(self) -> dict[str, float]:
        """The likelihood of held-out codes; nothing without any."""
        if self.held_out is None:
            return {}
        with autocast(self.config, self.ranks):
            return held_out_figures(
                self.best, self.held_out, self.config.data.batch_size, self.ranks
            )

    def start_interval(self) -> None:
        """Begin the next interval of the log."""
        self.meter.reset()

    def pictures(self) -> list[Tensor]:
        """Conditions, codes decoded, and what was predicted."""
        return pictures(self.model, self.shown)

    def export(self) -> Callable[[Path], None]:
        """What writes both stages, with weights that ranks have put together here."""
        return partial(self.model.save_pretrained, gpt_state_dict=whole_state_dict(self.best))


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
