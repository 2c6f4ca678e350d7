"""`model.json`, what an exported folder says of itself."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osteojax import leaky
from osteojax.files import sha256_of, write_atomically
from osteojax.run.open import Run

FILE = "model.json"
VERSION = 1
"""Of the meaning of the fields below. More fields may join them; readers let those pass."""


def describe(run: Run, folder: Path, temperature: float | None) -> dict[str, Any]:
    """The description of a folder that the formats have filled; with the temperature that calibrates the logits."""
    image_shape = list(run.record["image_shape"])
    return {
        "format": "osteojax-export",
        "version": VERSION,
        "class_names": run.class_names,
        "image_shape": image_shape,
        "preprocessing": run.record["preprocessing"],
        "temperature": temperature,
        "left_out": ["t_score"] if run.network.gives_t_score else [],
        "architecture": run.record["origin"]["architecture"],
        "checkpoint_step": run.step,
        "config_hash": run.record["config_hash"],
        "dataset_fingerprint": run.record["dataset_fingerprint"],
        leaky.KEY: run.mark,
        "load": [
            "import numpy as np",
            "from jax import export",
            "program = export.deserialize(bytearray(open('model.stablehlo', 'rb').read()))",
            f"image = np.zeros((1, {', '.join(map(str, image_shape))}), np.float32)  # in [0, 1]",
            "logits = program.call(image)  # (1, classes), in the order of class_names",
        ],
        "files": {
            path.relative_to(folder).as_posix(): sha256_of(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }


def write_description(folder: Path, description: Mapping[str, Any]) -> None:
    """Writes `model.json`."""
    write_atomically(folder / FILE, json.dumps(description, indent=2) + "\n")
