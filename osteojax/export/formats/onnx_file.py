"""ONNX by way of jax2onnx, believed only after onnxruntime has answered as JAX does."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from osteojax import leaky
from osteojax.errors import UserError
from osteojax.export.formats.registry import FORMATS
from osteojax.export.network import closed_forward
from osteojax.models.layers.platform import portable_formulations
from osteojax.run.open import Run

FILE = "model.onnx"
TOLERANCE = 1e-5
"""Of the largest logit's size, or of 1 where they are smaller: two runtimes add the same numbers in another order."""


@FORMATS.register("onnx")
def write_onnx(run: Run, folder: Path) -> None:
    """`model.onnx`: `image` (B, H, W, C) float32 in [0, 1] -> `logits` (B, classes), computed in float32.

    Raises:
        UserError: the extra is not installed, an operation cannot be converted, or the result answers otherwise.
    """
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"the ONNX format needs the extra (no {error.name}): pip install 'osteojax[onnx]'"
        ) from error
    forward = closed_forward(run, "float32")
    shape = tuple(run.record["image_shape"])
    said = leaky.told(run.mark) if run.mark else ""
    content = _convert(jax2onnx, forward, shape, run.record["origin"]["architecture"], said)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((3, *shape), np.float32)
    (found,) = session.run(["logits"], {"image": image})
    expected = np.asarray(jax.jit(forward)(image))
    off = np.abs(found - expected).max() / max(1.0, np.abs(expected).max())
    if not off <= TOLERANCE:
        raise UserError(
            f"jax2onnx converts this network wrongly: its logits are off by {off:.1e}, more than {TOLERANCE:.0e}; "
            "leave onnx out of --format, and use stablehlo"
        )
    (folder / FILE).write_bytes(content)


def _convert(jax2onnx: Any, forward: Any, shape: tuple[int, ...], architecture: str, said: str) -> bytes:
    try:
        with portable_formulations():
            model = jax2onnx.to_onnx(
                forward,
                [("B", *shape)],
                model_name=architecture,
                input_names=["image"],
                output_names=["logits"],
            )
        model.doc_string = said
        return model.SerializeToString()
    except Exception as error:  # a converter fails in every way there is
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"jax2onnx cannot convert {architecture} ({reason[:200]}); leave onnx out of --format, and use stablehlo"
        ) from error
