"""Native against absolute positions: the same codes, steps and sizes, held-out NLL side by side.

    vqgan-fast demo --output runs/demo
    python benchmarks/compare_native.py runs/demo --steps 600 --runs runs/native_vs_absolute \\
        --output benchmarks/results

Both transformers train on the demo's codes with the demo's settings, one as `transformer: gpt`, one
as `transformer: window_gpt`, into folders of --runs; beside these lies a sheet of samples of each,
as large as a training crop and four times as wide. --output gets a table of parameters and NLL.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tables import Tables

from vqgan_fast.models import LatentTransformer
from vqgan_fast.report.pictures import picture_grid
from vqgan_fast.sampling import sample
from vqgan_fast.train import load_config, train_transformer

KINDS = {"gpt": "absolute positions (GPT)", "window_gpt": "native (WindowGPT)"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="the folder of a demo that has finished")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--runs", type=Path, default=Path("runs/native_vs_absolute"))
    parser.add_argument(
        "--output", type=Path, help="a folder for native_vs_absolute_<CPU>.json and .md"
    )
    args = parser.parse_args()
    tables = Tables("Native against absolute positions on the demo's codes", steps=args.steps)
    rows = []
    for kind, name in KINDS.items():
        run_dir = args.runs / kind
        config = load_config(
            args.demo / "stage2" / "config.yaml",
            [
                f"transformer={kind}", f"run_dir={run_dir}", f"optim.steps={args.steps}",
                "optim.max_minutes=null", "resume=false",
            ],
        )  # fmt: skip
        metrics = train_transformer(config).metrics
        model = LatentTransformer.from_pretrained(run_dir / "model")
        number = sum(parameter.numel() for parameter in model.transformer.parameters())
        rows.append(
            {
                "transformer": name,
                "parameters": number,
                "training NLL": metrics["nll"],
                "held-out NLL": metrics["val_nll"],
            }
        )
        side = config.data.size // model.first_stage_model.downsampling_factor
        for sheet, grid in (("samples", (side, side)), ("wide", (side, 4 * side))):
            images = sample(model, grid=grid, window=side, seeds=range(8))
            picture_grid(images).save(args.runs / f"{kind}_{sheet}.png")
    tables.add("Nats a code", rows)
    for file in tables.write(args.output, "native_vs_absolute"):
        print(file)


if __name__ == "__main__":
    main()
