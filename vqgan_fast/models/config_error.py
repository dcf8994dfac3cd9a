"""The error of every configuration file that this package reads."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key, the place and the way out."""
