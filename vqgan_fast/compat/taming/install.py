"""Names of the reference's modules for code that imports them where it is not installed."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types

# Module of the reference -> (module of this package, the names that it offers under that name).
NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "taming.modules.vqvae.quantize": (
        "",
        (
            "VectorQuantizer", "VectorQuantizer2", "GumbelQuantize", "EMAVectorQuantizer",
            "EmbeddingEMA",
        ),
    ),
    "taming.modules.diffusionmodules.model": (".networks", ("Encoder", "Decoder")),
    "taming.modules.discriminator.model": (
        ".networks",
        ("NLayerDiscriminator", "weights_init"),
    ),
    "taming.modules.losses.lpips": (".losses", ("LPIPS",)),
    "taming.modules.losses.vqperceptual": (
        ".losses",
        ("DummyLoss", "LPIPS", "adopt_weight", "hinge_d_loss", "vanilla_d_loss"),
    ),
    "taming.models.vqgan": (".models", ("VQModel", "GumbelVQ")),
    "taming.models.cond_transformer": (".models", ("Net2NetTransformer",)),
}  # fmt: skip
# As the reference's own module imports them, for `from ...vqperceptual import *`.
_ALSO = {"taming.modules.losses.vqperceptual": ("NLayerDiscriminator", "weights_init")}

_replaced: dict[str, types.ModuleType] = {}


def install(shadow: bool = False) -> list[str]:
    """Registers the modules of the reference, `taming.*`, that can be had here.

    Latent diffusion, stable diffusion and VQGAN-CLIP then import what they need of it:
    `taming.modules.vqvae.quantize`, `.diffusionmodules.model`, `.discriminator.model`,
    `.losses.{lpips, vqperceptual}`, `taming.models.vqgan` (to encode and decode) and
    `taming.models.cond_transformer` (whose class says that it is not covered). Training code, data
    sets and `taming.modules.transformer` are not among them: importing those fails as ever.

    Args:
        shadow: also where the reference itself is installed. Without it, nothing is done then.

    Returns:
        The names registered, none if the reference is installed.
    """
    if _is_ours(sys.modules.get("taming")):
        return sorted(name for name, module in sys.modules.items() if _is_ours(module))
    if not shadow and ("taming" in sys.modules or importlib.util.find_spec("taming")):
        return []
    modules = _build()
    for name in [name for name in sys.modules if name.split(".")[0] == "taming"]:
        _replaced[name] = sys.modules.pop(name)
    sys.modules.update(modules)
    return sorted(modules)


def uninstall() -> None:
    """Takes the modules of `install` away again, and puts back what they shadowed."""
    for name in [name for name, module in sys.modules.items() if _is_ours(module)]:
        del sys.modules[name]
    sys.modules.update(_replaced)
    _replaced.clear()


def _build() -> dict[str, types.ModuleType]:
    modules: dict[str, types.ModuleType] = {}
    for name, (home, offered) in NAMES.items():
        module = _module(modules, name)
        source = importlib.import_module(__package__ + home)
        for attribute in offered:
            setattr(module, attribute, getattr(source, attribute))
        for attribute in _ALSO.get(name, ()):
            setattr(
                module, attribute, getattr(modules["taming.modules.discriminator.model"], attribute)
            )
    return modules


def _module(modules: dict[str, types.ModuleType], name: str) -> types.ModuleType:
    """A new module, and the packages above it."""
    if name not in modules:
        modules[name] = module = types.ModuleType(name, "Offered by vqgan_fast.compat.taming.")
        module.__vqgan_fast__ = True
        is_package = name not in NAMES
        # Code that asks importlib.util.find_spec for it would get an error without one.
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=is_package)
        if is_package:
            module.__path__ = []  # a package: what is not registered is not found
        parent, _, leaf = name.rpartition(".")
        if parent:
            setattr(_module(modules, parent), leaf, module)
    return modules[name]


def _is_ours(module: types.ModuleType | None) -> bool:
    return getattr(module, "__vqgan_fast__", False) is True
