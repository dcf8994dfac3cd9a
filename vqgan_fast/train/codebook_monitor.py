"""Is the codebook alive? Counts of its codes over the last steps, and new life for dead ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from vqgan_fast.data.order import DEAD_CODES, counter_generator
from vqgan_fast.models import VQGAN
from vqgan_fast.quantizers import perplexity, restart_dead_codes, usage

from .config import CodebookConfig
from .distributed import Ranks


class CodebookMonitor:
    """Counts which codes are used, over all ranks, in two windows of steps.

    Usage and perplexity are those of the last `usage_window` steps. Every `restart_after` steps, a
    code that was not used since the time before counts as dead.

    Args:
        codebook_size: the number of codes counted, `quantize.num_codes`.
        config: the lengths of the windows and what to do.
        seed: of the draw of the latents that dead codes are moved onto.
    """

    def __init__(self, codebook_size: int, config: CodebookConfig, seed: int, ranks: Ranks) -> None:
        self.config, self.seed, self.ranks = config, seed, ranks
        device = ranks.device
        self.window = torch.zeros(
            config.usage_window, codebook_size, dtype=torch.int32, device=device
        )
        self.since_restart = torch.zeros(codebook_size, dtype=torch.int64, device=device)
        self.restarted = torch.zeros((), dtype=torch.int64, device=device)

    def observe(self, step: int, counts: Tensor) -> None:
        """Take in the counts (K,) int64 of this rank's latents of one step, numbered from 0."""
        counts = self.ranks.sum(counts.clone())
        self.window[step % len(self.window)] = counts
        self.since_restart += counts

    def figures(self, step: int) -> tuple[dict[str, float], str | None]:
        """What the log says after `step` finished steps, and a warning if the codebook collapses.

        Returns:
            codebook_usage (share of codes used in the window), perplexity, and, where dead codes
            are restarted, restarted_codes since the last `reset`.
        """
        counts = self.window.sum(0)
        share, spread, latents = torch.stack(
            [usage(counts), perplexity(counts), counts.sum().float()]
        ).tolist()
        figures = {"codebook_usage": share, "perplexity": spread}
        if self.config.restart_dead_codes:
            figures["restarted_codes"] = float(self.restarted)
        steps = min(step, len(self.window))
        # A few latents cannot use many codes: after one step of a small batch, low is no collapse.
        possible = min(1.0, latents / len(counts))
        if steps < len(self.window) or share >= self.config.collapse_usage * possible:
            return figures, None
        remedy = (
            "a lower learning rate, a smaller codebook or a smaller embed_dim may help"
            if self.config.restart_dead_codes
            else "codebook.restart_dead_codes=true moves unused codes onto live latents"
        )
        return figures, (
            f"CODEBOOK COLLAPSE: only {share:.1%} of the {len(counts)} codes were used in the last "
            f"{steps} steps (perplexity {spread:.1f}); {remedy}"
        )

    def restart_is_due(self, step: int) -> bool:
        """Whether dead codes are to be looked for after `step` finished steps."""
        return self.config.restart_dead_codes and step % self.config.restart_after == 0

    @torch.no_grad()
    def restart(
        self,
        step: int,
        model: VQGAN,
        optimizer: Optimizer,
        average: VQGAN | None,
        parts: Sequence[Tensor],
    ) -> None:
        """Move every dead code onto a latent of the current batch of all ranks.

        The optimizer forgets what it knew of those codes, and the averaged weights take the new
        ones over. All ranks draw the same latents, and so does one rank with the whole batch, be it
        in one part or in several.

        Args:
            step: finished steps; with the seed, it decides the draw.
            model: whose codebook is repaired, in place.
            average: the averaged model, if there is one.
            parts: this rank's images (B, C, H, W), of each of the step's micro-batches.
        """
        codebooks = model.quantize.codebooks()
        dead = (self.since_restart == 0).split([len(codebook) for codebook in codebooks])
        encoded = (model.quant_conv(model.encoder(x)) for x in parts)
        rows = [map(self.ranks.gather, model.quantize.codebook_latents(z)) for z in encoded]
        latents = map(torch.cat, zip(*rows, strict=True))  # in the order of the samples
        draw = counter_generator(self.seed, DEAD_CODES, 0, step).integers(2**63)
        generator = torch.Generator().manual_seed(int(draw))
        averages = codebooks if average is None else average.quantize.codebooks()
        for codebook, averaged, own_dead, z in zip(codebooks, averages, dead, latents, strict=True):
            replaced = restart_dead_codes(codebook, own_dead, z, generator)
            for moment in optimizer.state[codebook].values():
                if moment.shape == codebook.shape:
                    moment[replaced] = 0
            averaged[replaced] = codebook[replaced]
            self.restarted += len(replaced)
        self.since_restart.zero_()

    def reset(self) -> None:
        """Start counting restarted codes anew."""
        self.restarted.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds; the same on every rank."""
        return {
            "codebook/window": self.window,
            "codebook/since_restart": self.since_restart,
            "codebook/restarted": self.restarted,
        }
