"""Native against absolute positions: the same codes, steps and sizes, held-out NLL side by side.

    vqgan-fast demo --output runs/demo
    python benchmarks/compare_native.py runs/demo --steps 600 --runs runs/native_vs_absolute \\
        --output benchmarks/results

Both transformers train on the demo's codes with the demo's settings, one as `transformer: gpt`, one
as `transformer: window_gpt`, into folders of --runs; beside these lies a sheet of samples of both,
as large as a training crop and four times as wide. --output gets the tables and the sheet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image
from tables import Row, Tables

from vqgan_fast.models import LatentTransformer
from vqgan_fast.report.curves import read_metrics
from vqgan_fast.report.pictures import beside, labelled, picture_grid, stack
from vqgan_fast.sampling import sample
from vqgan_fast.train import TransformerRun, load_config, train_transformer

KINDS = {"gpt": "absolute positions (GPT)", "window_gpt": "native (WindowGPT)"}


def settings(config: TransformerRun) -> dict[str, object]:
    """What the figures depend on."""
    gpt = config.gpt
    return {
        "steps": config.optim.steps, "batch": config.data.batch_size, "crop": config.data.size,
        "layers": gpt.n_layer, "width": gpt.n_embd, "heads": gpt.n_head, "seed": config.seed,
    }  # fmt: skip


def figures(name: str, model: LatentTransformer, metrics: dict[str, float]) -> Row:
    number = sum(parameter.numel() for parameter in model.transformer.parameters())
    return {
        "transformer": name,
        "parameters": number,
        "training NLL": metrics["nll"],
        "held-out NLL": metrics["val_nll"],
    }


def course(run_dirs: dict[str, Path]) -> list[Row]:
    """Held-out NLL at every log step that measured it."""
    entries = {
        name: {entry["step"]: entry["val_nll"] for entry in read_metrics(folder / "metrics.jsonl")
               if "val_nll" in entry}
        for name, folder in run_dirs.items()
    }  # fmt: skip
    steps = set.intersection(*map(set, entries.values()))
    return [
        {"step": step, **{name: values[step] for name, values in entries.items()}}
        for step in sorted(steps)
    ]


def sheet(name: str, model: LatentTransformer, side: int) -> Image.Image:
    """Eight samples as large as a training crop, and four four times as wide."""
    square = sample(model, grid=(side, side), window=side, seeds=range(8))
    wide = sample(model, grid=(side, 4 * side), window=side, seeds=range(4))
    return labelled(stack([picture_grid(square, columns=4), picture_grid(wide, columns=1)]), name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="the folder of a demo that has finished")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--runs", type=Path, default=Path("runs/native_vs_absolute"))
    parser.add_argument(
        "--output", type=Path, help="a folder for native_vs_absolute_<CPU>.json, .md and .png"
    )
    args = parser.parse_args()
    configs = {
        kind: load_config(
            args.demo / "stage2" / "config.yaml",
            [
                f"transformer={kind}", f"run_dir={args.runs / kind}", f"optim.steps={args.steps}",
                "optim.max_minutes=null", "resume=false",
            ],
        )
        for kind in KINDS
    }  # fmt: skip
    tables = Tables(
        "Native against absolute positions on the demo's codes", **settings(configs["gpt"])
    )
    rows, sheets = [], []
    for kind, config in configs.items():
        metrics = train_transformer(config).metrics
        model = LatentTransformer.from_pretrained(args.runs / kind / "model")
        rows.append(figures(KINDS[kind], model, metrics))
        side = config.data.size // model.first_stage_model.downsampling_factor
        sheets.append(sheet(KINDS[kind], model, side))
    tables.add("Nats a code", rows)
    tables.add(
        "Held-out, as training goes on",
        course({name: args.runs / kind for kind, name in KINDS.items()}),
    )
    picture = beside(sheets)
    picture.save(args.runs / "samples.png")
    files = tables.write(args.output, "native_vs_absolute")
    if files:
        files.append(files[0].with_suffix(".png"))
        picture.save(files[-1])
    for file in files:
        print(file)


if __name__ == "__main__":
    main()
