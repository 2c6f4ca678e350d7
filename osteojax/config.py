"""Experiment configs: loaded from a Python file, overridden on the command line, stored as JSON."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from osteojax.errors import UserError


def find(path: str) -> Path:
    """The config file at `path`; a shipped config is found from any folder (`configs/train/demo.py`).

    Raises:
        UserError: no such file, neither from here nor among the shipped ones.
    """
    here = Path(__file__).resolve().parent
    given = Path(path)
    # In the repository the shipped configs lie beside the package, once installed within it.
    shipped = [folder for folder in (here.parent / "configs", here / "configs") if folder.is_dir()]
    candidates = [given]
    if given.parts[:1] == ("configs",):
        candidates += [folder.joinpath(*given.parts[1:]) for folder in shipped]
        # A name without the kind's folder will do: `configs/demo.py`.
        candidates += [folder / kind / given.name for folder in shipped for kind in ("prep", "train")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(
        f"config file not found: {path}; give the path of a .py file with a get_config() function"
    )


def load(path: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Runs `get_config()` of the file and applies `--config.key=value` overrides, types checked.

    Raises:
        UserError: the file is absent or has no `get_config`, or an override names no key or a wrong type.
    """
    values = flags.FlagValues()
    file = find(path)
    arguments = ["osteojax", f"--config={file}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    try:
        rest = values(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}") from error
    if len(rest) > 1:
        raise UserError(f"unexpected argument: {rest[1]}")
    return ml_collections.ConfigDict(values.config)


def from_json(text: str) -> ml_collections.ConfigDict:
    """The config stored by `to_json`."""
    return ml_collections.ConfigDict(json.loads(text))


def to_json(config: ml_collections.ConfigDict) -> str:
    """Canonical text of a config: plain JSON types, keys sorted, so that equal configs give equal text."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def digest(config: ml_collections.ConfigDict) -> str:
    """SHA-256 of the canonical text."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()


def differences(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> list[str]:
    """Dotted keys whose values differ, each as `key: old -> new`."""
    before, after = _flat(old.to_dict()), _flat(new.to_dict())
    absent = "(absent)"
    return [
        f"{key}: {before.get(key, absent)!r} -> {after.get(key, absent)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, absent) != after.get(key, absent)
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    # Through JSON, so that a tuple of the config file equals the list that the stored config gives back.
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.loads(json.dumps(value))
    return flat
