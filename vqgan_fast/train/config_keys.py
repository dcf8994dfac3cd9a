"""Every key of a configuration with its default and its comment, as a YAML file to start from."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from dataclasses import fields, is_dataclass
from typing import Any, cast

import yaml

from .config import STAGES

WIDTH = 100


def commented_defaults(stage: str) -> str:
    """The configuration of a stage as it is where a file says nothing.

    Args:
        stage: "vqgan" or "transformer".

    Returns:
        YAML, which `load_config` reads as the defaults. Comments are those of config.py.
    """
    return "\n".join(_lines(STAGES[stage]())) + "\n"


def _lines(values: Any) -> list[str]:
    """Single keys first, then what has keys below it."""
    comments = _comments(type(values))
    single, tables = _comment(inspect.cleandoc(type(values).__doc__ or "")), []
    for entry in fields(values):
        value, comment = getattr(values, entry.name), comments[entry.name]
        if is_dataclass(value):
            tables += ["", *_comment(comment), f"{entry.name}:"]
            tables += [textwrap.indent(line, "  ") for line in _lines(value)]
            continue
        line = f"{entry.name}: {yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"
        if len(f"{line}  # {comment}") <= WIDTH:
            single.append(f"{line}  # {comment}" if comment else line)
        else:
            single += [*_comment(comment), line]
    return single + tables


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 8)]


def _comments(table: type) -> dict[str, str]:
    """What stands behind each field in the source, or in the lines above it."""
    found: dict[str, str] = {}
    for part in reversed(table.__mro__):
        if not is_dataclass(part):
            continue
        source = textwrap.dedent(inspect.getsource(part))
        told = {
            token.start[0]: token.string.lstrip("# ")
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT and not token.string.startswith("# type:")
        }
        lines = source.splitlines()
        for node in cast(ast.ClassDef, ast.parse(source).body[0]).body:
            if not isinstance(node, ast.AnnAssign):
                continue
            above = node.lineno - 1
            while lines[above - 1].lstrip().startswith("#"):
                above -= 1
            end = node.end_lineno or node.lineno
            parts = [told[n] for n in range(above + 1, end + 1) if n in told]
            name = cast(ast.Name, node.target).id
            found[name] = " ".join(parts) or found.get(name, "")
    return found
