"""Which pixels of a radiograph are femur, tibia and joint space: the U-Net, asked for one picture.

It runs on the CPU, one thread an operation, wherever preparation or prediction runs: the same bits in every worker.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from data_prep.region.spec import SIZE, kept
from data_prep.region.weights import read_weights
from osteojax.errors import UserError

_ONE_THREAD: dict[str, str | bool] = {"xla_cpu_multi_thread_eigen": False}


def segment(image: NDArray[np.float32], sha256: str) -> NDArray[np.float32]:
    """Probabilities of the regions.

    Args:
        image: (SIZE, SIZE) in [0, 1].
        sha256: of the weights.

    Returns:
        (SIZE, SIZE, 4) float32 that add up to 1, in the order of `data_prep.phantom.regions.REGIONS`.

    Raises:
        UserError: the weights are not here.
    """
    return np.asarray(_network(sha256)(image[None, ..., None])[0])


@functools.cache
def _network(sha256: str) -> Callable[[np.ndarray], jax.Array]:
    path = kept(sha256)
    if not path.exists():
        raise UserError(
            f"the segmenter with the SHA-256 {sha256} that these images were prepared with is not here; copy its "
            f"unet.safetensors to {path}"
        )
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        model, found = read_weights(path)
        if found != sha256:
            raise UserError(
                f"{path} is not what its name says; remove it, and copy the segmenter there again"
            )
        graph, state = nnx.split(model)
        shape = jax.ShapeDtypeStruct((1, SIZE, SIZE, 1), np.float32)
        forward = jax.jit(lambda state, image: jax.nn.softmax(nnx.merge(graph, state)(image)))
        return functools.partial(forward.lower(state, shape).compile(compiler_options=_ONE_THREAD), state)
