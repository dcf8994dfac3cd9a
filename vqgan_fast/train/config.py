"""What a training run can be told: every key, its default and its meaning.

A YAML file holds these keys in the same nesting; `load_config` reads one, `key=value` overrides go
on top. `stage` decides which of the two tables applies, `VQGANRun` or `TransformerRun`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vqgan_fast.models.config_error import ConfigError as ConfigError  # raised all over train


@dataclass
class ModelConfig:
    """The arguments of `vqgan_fast.VQGAN`; f = 2 ^ (number of ch_mult - 1)."""

    codebook_size: int = 1024  # codes
    embed_dim: int = 256  # elements of a code
    ch: int = 128  # channels, times ch_mult at each level
    # A level each; from one to the next height and width are halved.
    ch_mult: list[int] = field(default_factory=lambda: [1, 1, 2, 2, 4])
    num_res_blocks: int = 2  # residual blocks of each level; the decoder has one more
    # Sides of feature maps that have attention behind each block.
    attn_resolutions: list[int] = field(default_factory=lambda: [16])
    resolution: int | None = None  # that attn_resolutions are of; null is data.size
    z_channels: int = 256  # between the networks and the quantiser
    in_channels: int = 3
    out_ch: int = 3
    dropout: float = 0.0  # in residual blocks
    beta: float = 0.25  # weight of one of the quantiser's two terms, see legacy
    legacy: bool = (
        True  # beta on the codebook's term, as in the reference; false: on the commitment
    )
    quantizer: str = "vector"  # or another, see docs/drop_in.md
    quantizer_options: dict[str, Any] = field(default_factory=dict)  # its further arguments


@dataclass
class LossConfig:
    """The arguments of `vqgan_fast.losses.VQGANLoss` and its perceptual loss."""

    kind: str = "vqgan"  # or segmentation: cross-entropy of labels, + codebook_weight
    disc_start: int = 10000  # generator steps before the discriminator joins
    disc_weight: float = 0.8  # times the adaptive weight
    disc_factor: float = 1.0  # of both adversarial losses; 0 trains without them
    disc_loss: str = "hinge"  # or vanilla
    disc_num_layers: int = 3  # of the PatchGAN, each halving height and width
    disc_ndf: int = 64  # channels of its first layer
    use_actnorm: bool = False  # instead of batch normalisation in it
    pixel_loss: str = "l1"  # or mse, as in VQ-VAE
    codebook_weight: float = 1.0  # of the quantiser's loss
    perceptual_weight: float = 1.0  # of LPIPS
    perceptual_net: str = "vgg"  # or alex, squeeze
    perceptual_weights: str = "pretrained"  # or random, auto


@dataclass
class GPTConfig:
    """The sizes of the transformer; vocabulary and length follow from first stage and condition."""

    n_layer: int = 24  # blocks
    n_head: int = 16  # of attention in each
    n_embd: int = 1024  # width
    embd_pdrop: float = 0.0  # dropout of embeddings,
    resid_pdrop: float = 0.0  # of what a block adds,
    attn_pdrop: float = 0.0  # of attention
    n_unmasked: int = 0  # tokens at the front that all see
    ordering: str = "row_major"  # or spiral_in, spiral_out, z_curve, subsample, alternate


@dataclass
class MapConfig:
    """Maps that go with the pictures; with a `kind`, stage 1 learns them instead of the pictures.

    segmentation and depth are files named as the pictures, in folders as theirs. keypoints are one
    JSON file in COCO's format. edges, low_resolution and coordinates are made of the pictures.
    """

    kind: str | None = None
    # Of the training pictures' maps, a pattern of tar shards where theirs is one too; the JSON file
    # of keypoints.
    folder: str | None = None
    validation_folder: str | None = None  # the same for the held-out pictures
    unpaired: str = "refuse"  # or skip: leave pictures out that have no map of their size
    n_labels: int = 151  # of segmentation: labels are 0 ... n_labels - 1
    shift: int = 0  # of segmentation: added to each byte, modulo 256; 1 for COCO-Stuff
    sigma: float = 2.0  # of edges: the Gaussian's, in pixels
    factor: int = 8  # of low_resolution


@dataclass
class ConditionPart(MapConfig):
    """What stands before the codes: `kind` is sos (nothing), label (the folder of the picture is
    its class), coordinates, or a kind of map, of which the codes are taken."""

    kind: str = "sos"  # type: ignore[assignment]
    vqgan: str | None = None  # of maps: the VQGAN that encodes them; null is the first stage itself
    n_tokens: int = 1024  # of coordinates


@dataclass
class ConditionConfig(ConditionPart):
    """One condition, or with `parts` several of them, one behind the other."""

    parts: list[ConditionPart] = field(default_factory=list)


@dataclass
class DataConfig:
    """Pictures. A path is a folder (searched recursively) or a .txt list of files."""

    train: str | None = None
    # Instead of train: tar shards, a pattern such as photos-{000000..000127}.tar, or a list.
    shards: Any = None
    validation: str | None = None  # held-out pictures: figures at every log step, and grids
    validation_crops: int = 64  # at most this many held-out crops
    size: int = 256  # side of a crop in pixels
    resize: int | None = 256  # the shorter side of each picture before cropping; null keeps it
    crop: str = "random"  # or center
    flip: bool = True  # mirror half of the crops
    # (left, top, right, bottom) as fractions of each picture: crops stay inside.
    train_region: list[float] = field(default_factory=lambda: [0.0, 0.0, 1.0, 1.0])
    validation_region: list[float] = field(default_factory=lambda: [0.0, 0.0, 1.0, 1.0])
    maps: MapConfig = field(default_factory=MapConfig)
    cache: bool = False  # keep the resized pictures in memory; no worker processes then
    num_workers: int = 4  # processes that read pictures, for each rank
    batch_size: int = 8  # per rank
    # Samples of a step, over all ranks: batch_size follows from it, on any number of ranks.
    global_batch_size: int | None = None


@dataclass
class TransformerDataConfig(DataConfig):
    """Pictures, as of stage 1, or the codes that `vqgan-fast tokenize` wrote."""

    codes: str | None = None  # their grid counts; size is that of held-out pictures alone


@dataclass
class OptimConfig:
    """Adam's learning rate is base_learning_rate * batch_size * ranks * accumulate."""

    base_learning_rate: float = 4.5e-6
    learning_rate: float | None = None  # the learning rate itself, instead of that rule
    accumulate: int = 1  # batches whose gradients are averaged for one step
    steps: int = 100_000  # at the end of the run, those before a resume counted in
    # Stop, with a checkpoint, after this long; one is written first, to see how long that takes.
    max_minutes: float | None = None
    precision: str = "fp32"  # or bf16: autocast
    ema_decay: float | None = None  # of averaged weights, which are then the ones exported
    # Less memory, a third more time: blocks are computed again in the backward pass.
    activation_checkpointing: bool = False


@dataclass
class TransformerOptimConfig(OptimConfig):
    """As of stage 1, with AdamW's weight decay (of Linear weights only)."""

    weight_decay: float = 0.01
    sharded: bool = False  # cut weights, gradients and optimizer state over the ranks (FSDP2)


@dataclass
class CodebookConfig:
    """Watching the codebook, and reviving codes that nothing uses."""

    restart_dead_codes: bool = False
    restart_after: int = 100  # a code without use in this many steps is moved onto a live latent
    collapse_usage: float = 0.1  # warn when less than this share of the codes is in use
    usage_window: int = 100  # steps over which usage and perplexity are measured


@dataclass
class LogConfig:
    """How often what is written, counted in steps."""

    every: int = 50  # figures
    images_every: int = 1000  # grids of pictures
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3  # the newest
    checkpoint_in_background: bool = False  # training goes on while one is written
    tensorboard: bool = True
    progress: bool = True  # a bar


@dataclass
class Run:
    """What both stages have in common."""

    stage: str = "vqgan"
    run_dir: str | None = None  # everything of a run; refused if not empty, unless resume
    resume: bool = False  # go on from the last checkpoint in run_dir
    seed: int = 0  # of weights, the order of pictures, crops and draws
    device: str = "auto"  # or cpu, cuda
    rank_timeout_minutes: float = 30.0  # how long ranks wait for one that does not answer


@dataclass
class VQGANRun(Run):
    """`stage: vqgan`: what `train_vqgan` takes."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def vqgan_arguments(self) -> dict[str, Any]:
        """What `vqgan_fast.VQGAN` is built with."""
        resolution = self.model.resolution
        return {
            **vars(self.model), "resolution": self.data.size if resolution is None else resolution
        }  # fmt: skip


@dataclass
class TransformerRun(Run):
    """`stage: transformer`: what `train_transformer` takes."""

    stage: str = "transformer"
    first_stage: str | None = None  # the run folder of a VQGAN, or a save_pretrained folder
    condition: ConditionConfig = field(default_factory=ConditionConfig)  # or its kind alone
    cond_drop_prob: float = 0.0  # share of the samples without their condition, for guidance
    # gpt; window_gpt: relative positions in a window, fast on any grid; pixel_snail: the paper's
    # convolutional baseline, of gpt.n_layer blocks and gpt.n_embd channels.
    transformer: str = "gpt"
    pkeep: float = 1.0  # each input code is kept with this probability, else replaced at random
    gpt: GPTConfig = field(default_factory=GPTConfig)
    data: TransformerDataConfig = field(default_factory=TransformerDataConfig)
    optim: TransformerOptimConfig = field(default_factory=TransformerOptimConfig)
    log: LogConfig = field(default_factory=LogConfig)


STAGES: dict[str, type[VQGANRun | TransformerRun]] = {
    "vqgan": VQGANRun,
    "transformer": TransformerRun,
}
