"""One StableHLO program for CPU, CUDA and TPU, of any batch size."""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export

from osteojax.export.formats.registry import FORMATS
from osteojax.export.network import closed_forward
from osteojax.run.open import Run

FILE = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


@FORMATS.register("stablehlo")
def write_stablehlo(run: Run, folder: Path) -> None:
    """`model.stablehlo`: (b, H, W, C) float32 in [0, 1] -> logits (b, classes) float32, parameters as constants."""
    (batch,) = export.symbolic_shape("b")
    image = jax.ShapeDtypeStruct((batch, *run.record["image_shape"]), jnp.float32)
    program = export.export(jax.jit(closed_forward(run)), platforms=PLATFORMS)(image)
    (folder / FILE).write_bytes(program.serialize())
