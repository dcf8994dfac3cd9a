"""The command line `vqgan-fast`: one file for each command, each with its help text.

A command module has `add_arguments(parser)`, `run(args)`, and SUMMARY, DESCRIPTION and EXAMPLES for
the help. None of them imports torch before `run`, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import difflib
import dis
import os
import re
import sys
from collections.abc import Sequence
from types import ModuleType

from .. import __version__
from . import (
    convert,
    demo,
    evaluate,
    info,
    plan,
    reconstruct,
    sample,
    shard,
    study,
    tokenize,
    train,
)

COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "train": train,
    "sample": sample,
    "reconstruct": reconstruct,
    "plan": plan,
    "shard": shard,
    "tokenize": tokenize,
    "convert": convert,
    "evaluate": evaluate,
    "study": study,
    "info": info,
}

USER_ERROR, INTERRUPTED = 2, 130
TRACEBACK_HINT = "--traceback shows where it came up"
# RuntimeErrors of ours that are not bugs.
OUR_USER_ERRORS = (
    ("vqgan_fast.evaluate", "MetricWeightsError"),
    ("vqgan_fast.losses", "PerceptualWeightsError"),
    ("vqgan_fast.sampling", "ClassifierWeightsError"),
    ("vqgan_fast.sampling", "LogitsError"),
    ("vqgan_fast.train.agreement", "RanksDifferError"),
    ("vqgan_fast.train.checkpoint", "CheckpointError"),
)
# Modules that `pip install vqgan_fast` alone does not bring, and the extra that does.
EXTRAS = {
    **dict.fromkeys(("PIL", "lpips", "omegaconf", "safetensors", "skimage"), "train"),
    **dict.fromkeys(("tensorboard", "torchvision", "tqdm", "yaml"), "train"),
    **dict.fromkeys(("matplotlib", "rich"), "demo"),
    "torch_fidelity": "evaluate",
}

EPILOG = """\
the usual way:
  vqgan-fast demo                                        see it all at work, in eight minutes
  vqgan-fast train vqgan.yaml                            stage 1: pictures <-> codes
  vqgan-fast reconstruct runs/my_vqgan photo.jpg         look at what the codes keep
  vqgan-fast train transformer.yaml                      stage 2: the distribution of codes
  vqgan-fast sample runs/my_transformer --grid 16x64     new pictures, wider than any crop

`vqgan-fast COMMAND --help` explains a command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status.

    0: done. 2: something the user can put right (one message on stderr). 130: interrupted. Anything
    else that fails is a bug of ours and keeps its traceback. Where Python or a library found the
    fault, and so the message may be no answer, it names the option that shows the traceback.
    """
    args = parse(argv)
    try:
        args.run(args)
    except KeyboardInterrupt:
        print(f"\nvqgan-fast {args.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if "traceback" in args or not _is_for_the_user(error):
            raise
        print(f"vqgan-fast {args.command}: {_message(error)}", file=sys.stderr)
        return USER_ERROR
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; exits with status 2 and a usage message where they cannot be right."""
    parser = build_parser()
    args, left = parser.parse_known_args(argv)
    # argparse gives a list of positional arguments up at the first option behind it; in
    # `train CONFIG --resume key=value` the settings are left over.
    if args.command in ("train", "plan") and all("=" in text and text[0] != "-" for text in left):
        args.overrides += left
    elif left:
        # The command's own usage, not the program's.
        args.parser.error(_unrecognized(left, args))
    return args


def _unrecognized(left: Sequence[str], args: argparse.Namespace) -> str:
    name = left[0].partition("=")[0]
    message = f"unrecognized arguments: {' '.join(left)}"
    if not name.startswith("--"):
        return message
    if args.command in ("train", "plan") and "." in name:
        value = left[0].partition("=")[2] or "VALUE"
        return f"{message}; settings are written {name[2:]}={value}, without dashes"
    options = re.findall(r"--[\w-]+", args.parser.format_usage())
    near = difflib.get_close_matches(name, options, n=1)
    return f"{message}; did you mean {near[0]}?" if near else message


def build_parser() -> argparse.ArgumentParser:
    """The parser of the program with all its commands."""
    everywhere = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    everywhere.add_argument(
        "--traceback", action="store_true", help="show where in the program an error came up"
    )
    parser = argparse.ArgumentParser(
        prog="vqgan-fast",
        description="Train a VQGAN and a transformer on your pictures, and sample new pictures of "
        "any size.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[everywhere],
    )
    parser.add_argument("--version", action="version", version=f"vqgan_fast {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.DESCRIPTION,
            epilog="examples:\n" + module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[everywhere],
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


def _is_for_the_user(error: Exception) -> bool:
    """Whether the message alone says what to do: wrong input, a file, a package, a diverged run."""
    if isinstance(error, ValueError | OSError | ImportError | FloatingPointError):
        return True
    for name, kind in OUR_USER_ERRORS:
        module = sys.modules.get(name)  # where it is not loaded, it has raised nothing
        if module is not None and isinstance(error, getattr(module, kind)):
            return True
    return False


def _message(error: Exception) -> str:
    """What the user is told: of a missing package how to get it, else the error's own words."""
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        module = error.name.split(".")[0]
        if module in EXTRAS:
            return f"{module} is not installed: pip install 'vqgan_fast[{EXTRAS[module]}]'"
    hint = "" if _was_raised_here(error) else f" ({type(error).__name__}; {TRACEBACK_HINT})"
    return f"{error}{hint}"


def _was_raised_here(error: Exception) -> bool:
    """Whether a `raise` of this package gave the error its message, as it does for bad input."""
    if type(error).__module__.split(".")[0] == "vqgan_fast":
        return True
    place = error.__traceback__
    while place.tb_next is not None:
        place = place.tb_next
    here = place.tb_frame.f_globals.get("__name__", "").split(".")[0] == "vqgan_fast"
    # Python's own errors, such as that of int("x"), come up at another instruction.
    instruction = place.tb_frame.f_code.co_code[place.tb_lasti]
    return here and dis.opname[instruction] == "RAISE_VARARGS"
