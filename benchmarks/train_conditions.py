"""Trains every conditional task at toy size and writes the table of docs/conditions.md.

    python benchmarks/train_conditions.py --output runs/conditions \\
        --segmentation PICTURES MAPS --depth PICTURES MAPS --photos PICTURES

Each task takes its pictures and, where they are files, its maps; tasks without pictures are left
out. Always trained are the depth of scikit-image's stereo pair, which ships with that package, and
the poses of drawn figures. One first stage learns all pictures; the class of a picture is which of
the collections it is from. The right third of each picture is held out. What is finished already is
not trained again, what is not is gone on with.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from conditions_page import difference
from drawn_figures import write_figures
from PIL import Image
from skimage import data as skimage_data

from vqgan_fast.study.stages import train
from vqgan_fast.train import load_config

SIZE = 32
SMALL_VQGAN = [
    "model.codebook_size=128", "model.embed_dim=16", "model.ch=32", "model.ch_mult=[1,1,2]",
    "model.num_res_blocks=1", "model.attn_resolutions=[]", "model.resolution=32",
    "model.z_channels=32", "model.legacy=false", "codebook.restart_after=50",
]  # fmt: skip
NO_GAME = [
    "loss.disc_factor=0", "loss.disc_start=1000000", "loss.disc_ndf=8", "loss.perceptual_weight=0",
]  # fmt: skip
# A GPT must first learn which of the condition's tokens belongs to a cell: that takes thousands of
# steps. A WindowGPT is told the cell's own token.
SMALL_GPT = [
    "transformer=window_gpt", "gpt.n_layer=4", "gpt.n_head=4", "gpt.n_embd=128",
    "gpt.embd_pdrop=0", "gpt.resid_pdrop=0", "gpt.attn_pdrop=0",
]  # fmt: skip
SHARED = [
    f"data.size={SIZE}", "data.train_region=[0,0,0.62,1]", "data.validation_region=[0.64,0,1,1]",
    "data.validation_crops=64", "data.cache=true", "optim.precision=fp32", "device=cpu",
    "log.every=50", "log.images_every=100000", "log.checkpoint_every=250", "log.keep_checkpoints=1",
    "log.tensorboard=false", "log.progress=false",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of all runs")
    for task in ("segmentation", "depth"):
        parser.add_argument(f"--{task}", nargs=2, metavar=("PICTURES", "MAPS"))
    parser.add_argument("--photos", metavar="PICTURES", help="for edges, super-resolution")
    parser.add_argument("--vqgan-steps", type=int, default=1000, help="of the first stage")
    parser.add_argument("--map-steps", type=int, default=400, help="of the maps' VQGANs")
    parser.add_argument("--label-steps", type=int, default=1400, help="of the VQGAN of labels")
    parser.add_argument("--steps", type=int, default=500, help="of the transformers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    root, rows = args.output, []

    stereo = write_stereo_pair(root / "stereo_pair")
    figures = write_figures(root / "figures")
    segmentation, depth = args.segmentation or (None, None), args.depth or (None, None)
    photos = args.photos
    collections = {
        "stereo": stereo / "pictures", "figures": figures / "pictures",
        "segmentation": segmentation[0], "depth": depth[0], "photos": photos,
    }  # fmt: skip
    everything = gather(root / "pictures", collections)
    tasks = [
        ("segmentation", "segmentation", *segmentation),
        ("depth", "depth", *depth),
        ("super_resolution", "super_resolution", photos, None),
        ("edges", "edges", photos, None),
        ("pose", "pose", str(figures / "pictures"), str(figures / "keypoints.json")),
        ("stereo_depth", "depth", str(stereo / "pictures"), str(stereo / "maps")),
        ("classes", "classes", everything, None),
        # Aligned, as faces are: heads and feet are at their heights in every picture.
        ("coordinates", "coordinates", str(figures / "pictures"), None),
    ]
    first = root / "vqgan"
    pixels = run(
        "vqgan.yaml", first, args.vqgan_steps, [*SMALL_VQGAN, *NO_GAME, *pictures_of(everything)]
    )
    rows.append({"task": "the first stage", "maps": pixels})
    for name, config, pictures, maps in tasks:
        if pictures is None:
            continue
        row = {"task": name, "maps": None}
        # The one stereo picture has too few different crops when it is small.
        data = pictures_of(pictures, 320 if name == "stereo_depth" else 96)
        condition = []
        if config in ("segmentation", "depth", "edges", "pose"):
            files = [f"data.maps.folder={maps}", f"data.maps.validation_folder={maps}"]
            # Labels have neither a discriminator nor a perceptual distance anyway.
            options = [*SMALL_VQGAN, *([] if config == "segmentation" else NO_GAME), *data]
            row["maps"] = run(
                f"{config}_vqgan.yaml", root / f"{name}_maps",
                # The cross-entropy of 151 channels takes longer to tell them apart.
                args.label_steps if config == "segmentation" else args.map_steps,
                options + (files if maps else []),
            )  # fmt: skip
            condition = [f"condition.vqgan={root / f'{name}_maps'}"]
            if maps:
                condition += [f"condition.folder={maps}", f"condition.validation_folder={maps}"]
        row["transformer"] = run(
            f"{config}.yaml", root / name, args.steps,
            [f"first_stage={first}", *condition, *SMALL_GPT, *data],
        )  # fmt: skip
        row["difference"] = difference(root / name)
        rows.append(row)
        (root / "figures.json").write_text(json.dumps(rows, indent=2) + "\n")
        print(table(rows), flush=True)


def gather(folder: Path, collections: dict[str, Path | str | None]) -> str:
    """A folder of links to folders of pictures: what the first stage learns, and the classes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pictures in collections.items():
        if pictures is not None and not (folder / name).exists():
            (folder / name).symlink_to(Path(pictures).resolve(), target_is_directory=True)
    return str(folder)


def pictures_of(folder: str, resize: int = 96) -> list[str]:
    pictures = [f"data.train={folder}", f"data.validation={folder}", f"data.resize={resize}"]
    return [*pictures, *SHARED]


def run(config: str, run_dir: Path, steps: int, options: list[str]) -> dict[str, float]:
    """Trains, or goes on with it, and gives the last entry of the run's metrics."""
    metrics = run_dir / "metrics.jsonl"
    fixed = [f"run_dir={run_dir}", f"optim.steps={steps}", "optim.learning_rate=1e-3"]
    train(load_config(config, [*options, *fixed]))
    return json.loads(metrics.read_text().splitlines()[-1])


def write_stereo_pair(folder: Path) -> Path:
    """scikit-image's left picture of a motorcycle, and its disparity: near is large."""
    left, _, disparity = skimage_data.stereo_motorcycle()
    known = np.isfinite(disparity)
    disparity = np.where(known, disparity, disparity[known].min())  # what no camera saw: far away
    for name, picture in (("pictures/motorcycle.png", left), ("maps/motorcycle.tif", disparity)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


def table(rows: list[dict]) -> str:
    lines = [
        "| task | VQGAN of the maps | NLL, true condition | NLL, shuffled | shuffled - true |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        maps, last = row["maps"] or {}, row.get("transformer")
        quality = "-"
        if "val_accuracy" in maps:
            quality = f"{100 * maps['val_accuracy']:.1f}% of the pixels"
        elif "val_psnr" in maps:
            quality = f"{maps['val_psnr']:.1f} dB"
        if last is None:
            lines.append(f"| {row['task']} | {quality} | - | - | - |")
            continue
        more, error = row["difference"]
        lines.append(
            f"| {row['task']} | {quality} | {last['val_nll']:.3f} | {last['val_nll_shuffled']:.3f} "
            f"| {more:+.3f} ± {error:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
