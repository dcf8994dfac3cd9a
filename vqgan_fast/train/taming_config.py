"""The reference's own YAML files (CompVis/taming-transformers), read as they are.

Their `target:` entries name classes of the reference; here each becomes the part of ours that does
the same, with the same defaults. What has no counterpart is refused by name; what only steered the
reference's own trainer is left out, with a warning that says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqgan_fast.models.config_error import ConfigError
from vqgan_fast.models.taming.config import (
    GPT_KEYS,
    TRANSFORMER_TARGET,
    UNCONDITIONAL,
    VQGAN_TARGET,
    TamingReader,
)

LOSS_TARGET = "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator"
NO_LOSS_TARGETS = (
    "taming.modules.losses.DummyLoss",
    "taming.modules.losses.vqperceptual.DummyLoss",
)
DATA_MODULE_TARGETS = ("main.DataModuleFromConfig", "taming.main.DataModuleFromConfig")
LIST_FILE_KEYS = {
    "taming.data.custom.CustomTrain": "training_images_list_file",
    "taming.data.custom.CustomTest": "test_images_list_file",
}


def is_taming(given: Mapping[str, Any]) -> bool:
    """Whether a configuration is in the reference's format: its model is a `target`."""
    model = given.get("model")
    return isinstance(model, Mapping) and "target" in model


def translate(given: Mapping[str, Any], path: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Our keys and values for a configuration in the reference's format.

    Args:
        given: the reference's configuration.
        path: its file; a run without `run_dir` goes to runs/<name of the file>.
        changes: the overrides, in our keys; they can give what has no counterpart.

    Raises:
        ConfigError: a target that is not known here, or an option with no counterpart.
    """
    reader = _Reader(path, changes)
    model = reader.section(given, "model")
    target = model.get("target")
    if target == VQGAN_TARGET:
        ours = reader.vqgan(reader.section(model, "params", "model."))
    elif target == TRANSFORMER_TARGET:
        ours = reader.transformer(reader.section(model, "params", "model."))
    else:
        raise reader.unknown_target("model.target", target, (VQGAN_TARGET, TRANSFORMER_TARGET))
    ours["run_dir"] = f"runs/{path.stem}"
    ours["data"] = reader.data(reader.section(given, "data"))
    ours["optim"] = reader.optim(model, given.get("lightning") or {})
    reader.leave_out(model, {"target", "params", "base_learning_rate"}, "model.")
    reader.leave_out(given, {"model", "data", "lightning"}, "")
    if reader.left_out:
        warnings.warn(f"{path}: left out {', '.join(reader.left_out)}", stacklevel=3)
    return ours


class _Reader(TamingReader):
    """The parts of one file; collects what is left out."""

    def __init__(self, path: Path, changes: Mapping[str, Any]) -> None:
        super().__init__(path)
        self.changes = changes

    def vqgan(self, params: Mapping[str, Any]) -> dict[str, Any]:
        loss = self.section(params, "lossconfig", "model.params.")
        if loss.get("target") != LOSS_TARGET:
            raise self.unknown_target(
                "model.params.lossconfig.target", loss.get("target"), (LOSS_TARGET,)
            )
        if params.get("ckpt_path") is not None:
            raise ConfigError(
                f"{self.path}: model.params.ckpt_path asks to start from a checkpoint of the "
                "reference, which training does not; remove it to train from the beginning"
            )
        self.demand(params, {"image_key": "image", "colorize_nlabels": None, "remap": None})
        return {"stage": "vqgan", "model": self.vqgan_arguments(params), "loss": self.loss(loss)}

    def loss(self, loss: Mapping[str, Any]) -> dict[str, Any]:
        name = "model.params.lossconfig.params."
        params = self.section(loss, "params", "model.params.lossconfig.")
        self.demand(params, {"disc_conditional": False, "disc_in_channels": 3}, name)
        shared = (
            "disc_start", "disc_weight", "disc_factor", "disc_loss", "disc_num_layers", "disc_ndf",
            "use_actnorm", "codebook_weight", "perceptual_weight",
        )  # fmt: skip
        self.leave_out(params, {*shared, "disc_conditional", "disc_in_channels"}, name)
        # The reference's class weighs the discriminator 1 where a file says nothing; ours .8.
        self.needed(params, "disc_start", name)
        return {"disc_weight": 1.0, **{key: params[key] for key in shared if key in params}}

    def transformer(self, params: Mapping[str, Any]) -> dict[str, Any]:
        name = "model.params."
        condition = params.get("cond_stage_config")
        unconditional = params.get("unconditional") or condition == UNCONDITIONAL
        if not unconditional and "condition" not in self.changes:
            target = condition.get("target") if isinstance(condition, Mapping) else condition
            raise ConfigError(
                f"{self.path}: model.params.cond_stage_config asks for the condition {target}, "
                "which has no counterpart here; the override condition=sos trains without it"
            )
        self.demand(params, {"ckpt_path": None, "sos_token": 0, "first_stage_key": "image"})
        known = {"cond_stage_config", "unconditional", "permuter_config", "ckpt_path", "sos_token",
                 "first_stage_key", "cond_stage_key", "transformer_config", "first_stage_config",
                 "pkeep"}  # fmt: skip
        self.leave_out(params, known, name)
        ours = {"stage": "transformer", "gpt": self.gpt(params), "pkeep": params.get("pkeep", 1.0)}
        self.check_first_stage(self.section(params, "first_stage_config", name))
        return ours

    def gpt(self, params: Mapping[str, Any]) -> dict[str, Any]:
        # Vocabulary and length follow from the first stage and the size of the crops.
        sizes = self.gpt_section(params)
        defaults = {"n_layer": 12, "n_head": 8, "n_embd": 256}
        ours = {**defaults, **{key: sizes[key] for key in GPT_KEYS if key in sizes}}
        return {**ours, "ordering": self.ordering(params)}

    def check_first_stage(self, config: Mapping[str, Any]) -> None:
        name = "model.params.first_stage_config."
        if config.get("target") != VQGAN_TARGET:
            raise self.unknown_target(f"{name}target", config.get("target"), (VQGAN_TARGET,))
        params = self.section(config, "params", name)
        target = (params.get("lossconfig") or {}).get("target")
        if target not in (*NO_LOSS_TARGETS, LOSS_TARGET):
            known = (*NO_LOSS_TARGETS, LOSS_TARGET)
            raise self.unknown_target(f"{name}params.lossconfig.target", target, known)
        self.vqgan_arguments(params, f"{name}params.")
        if "first_stage" not in self.changes:
            raise ConfigError(
                f"{self.path}: {name}params.ckpt_path is {params.get('ckpt_path')}, a checkpoint "
                "of the reference; turn it into a folder with `vqgan-fast convert`, or take a "
                "VQGAN trained here, and give it with the override first_stage=RUN_FOLDER"
            )

    def data(self, data: Mapping[str, Any]) -> dict[str, Any]:
        if data.get("target") not in DATA_MODULE_TARGETS:
            raise self.unknown_target("data.target", data.get("target"), DATA_MODULE_TARGETS)
        params = self.section(data, "params", "data.")
        known = {"batch_size", "num_workers", "train", "validation", "wrap"}
        self.leave_out(params, known, "data.params.")
        batch_size = self.needed(params, "batch_size", "data.params.")
        ours = {"batch_size": batch_size, "num_workers": params.get("num_workers", 2 * batch_size)}
        train = self.section(params, "train", "data.params.")
        ours.update(self.crop(train))
        ours["train"] = self.pictures("train", train)
        if params.get("validation") is not None:
            ours["validation"] = self.pictures("validation", params["validation"])
        return {key: value for key, value in ours.items() if value is not None}

    def crop(self, dataset: Mapping[str, Any]) -> dict[str, Any]:
        """The reference resizes the shorter side to `size` and crops; nothing is flipped.

        Its custom datasets crop in the middle. Those that resize to `size` and then cut a smaller
        `crop_size` out, and ImageNet's, crop at random in training.
        """
        params = dataset.get("params") or {}
        sizes = {**params, **(params.get("config") or {})}
        size = self.needed(sizes, "size", "data.params.train.params.")
        crop_size = sizes.get("crop_size") or size
        center = dataset.get("target") in LIST_FILE_KEYS
        return {
            "size": crop_size,
            "resize": size,
            "crop": "center" if center else "random",
            "flip": False,
        }

    def pictures(self, name: str, dataset: Mapping[str, Any]) -> str | None:
        """The list file or folder of one dataset, None if an override gives it."""
        if name in (self.changes.get("data") or {}) or (
            name == "train" and "codes" in (self.changes.get("data") or {})
        ):
            return None
        target = dataset.get("target")
        if target not in LIST_FILE_KEYS:
            raise ConfigError(
                f"{self.path}: data.params.{name}.target {target} is a data set of the reference "
                f"that is not here; say where its pictures are with the override "
                f"data.{name}=FOLDER (or a .txt list; known targets: {', '.join(LIST_FILE_KEYS)})"
            )
        place = f"data.params.{name}.params."
        return self.needed(dataset.get("params") or {}, LIST_FILE_KEYS[target], place)

    def optim(self, model: Mapping[str, Any], lightning: Mapping[str, Any]) -> dict[str, Any]:
        ours = {"base_learning_rate": self.needed(model, "base_learning_rate", "model.")}
        trainer = lightning.get("trainer") or {}
        names = {"accumulate_grad_batches": "accumulate", "max_steps": "steps"}
        ours.update({names[key]: value for key, value in trainer.items() if key in names})
        self.leave_out(trainer, set(names), "lightning.trainer.")
        self.leave_out(lightning, {"trainer"}, "lightning.")
        return ours
