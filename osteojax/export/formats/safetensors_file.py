"""Parameters and running statistics as Hugging Face keeps them: `model.safetensors` and `config.json`."""

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from osteojax import leaky
from osteojax.export.formats.registry import FORMATS
from osteojax.export.network import arrays
from osteojax.files import write_atomically
from osteojax.run.open import Run


@FORMATS.register("safetensors")
def write_safetensors(run: Run, folder: Path) -> None:
    """`model.safetensors`, its tensors called `params.stage1.blocks.0...` and `batch_stats...`, and `config.json`.

    Kernels are laid out as in Flax: HWIO and (inputs, outputs).
    """
    tensors = {
        f"{kind}.{path.replace('/', '.')}": array
        for kind, tree in arrays(run).items()
        for path, array in tree.items()
    }
    config = _config(run)
    # Other readers know the framework by "format"; the rest says where a file came from that lost its config.json.
    metadata = {"format": "flax", "osteojax": json.dumps(config, sort_keys=True)}
    # save_file would make the file readable by its owner alone
    (folder / "model.safetensors").write_bytes(save(tensors, metadata))
    write_atomically(folder / "config.json", json.dumps(config, indent=2) + "\n")


def _config(run: Run) -> dict[str, Any]:
    """In Hugging Face's words where it has some."""
    height, width, channels = run.record["image_shape"]
    return {
        "model_type": "osteojax",
        "architectures": [run.record["origin"]["architecture"]],
        "id2label": {str(index): name for index, name in enumerate(run.class_names)},
        "label2id": {name: index for index, name in enumerate(run.class_names)},
        "image_size": [height, width],
        "num_channels": channels,
        "preprocessing": run.record["preprocessing"],
        "checkpoint_step": run.step,
        "config_hash": run.record["config_hash"],
        "dataset_fingerprint": run.record["dataset_fingerprint"],
        leaky.KEY: run.mark,
    }
