"""Weights of any supported origin -> the project's own file."""

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from osteojax.errors import UserError
from osteojax.weights.load import METADATA_KEY, load


def convert(weights: str | Path, arch: str, out: str | Path) -> dict[str, Any]:
    """Writes `out`, a safetensors file in our names and layout with its provenance in the metadata.

    Args:
        weights: as in `load`.
        arch: as in `load`.
        out: the file to write, ending in `.safetensors`; its directory is made.

    Returns:
        The provenance that was written: see `WeightsFile`.

    Raises:
        UserError: as in `load`, or where `out` has another ending or cannot be written.
    """
    target = Path(out)
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: our own weights are safetensors; end the name in .safetensors")
    loaded = load(weights, arch)
    provenance = dict(loaded.provenance)
    partial = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # save_file would make the file readable by its owner alone
        partial.write_bytes(save(dict(loaded.arrays), {METADATA_KEY: json.dumps(provenance, sort_keys=True)}))
        partial.replace(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error})") from error
    return provenance
