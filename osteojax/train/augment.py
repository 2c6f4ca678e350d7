"""Augmentation on the device, inside the jitted step, so that it is a pure function of (seed, step, row).

Radiographs allow little: mirroring (a left knee is a right knee mirrored), small rotations and shifts
(positioning), and gain (exposure). Each is off at 0.
"""

import jax
import jax.numpy as jnp
import ml_collections


def apply(key: jax.Array, image: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Augments a batch.

    Args:
        key: of this step.
        image: (B, H, W, C) float32 in [0, 1].
        config: `flip` (bool), `rotate` (degrees), `shift` (fraction of the side), `gain` (fraction); the last three
            are the half-widths of uniform draws.

    Returns:
        (B, H, W, C) float32 in [0, 1].
    """
    if not (config.flip or config.rotate or config.shift or config.gain):
        return image
    # One key per row, by its place in the global batch: the number of padding rows must not matter.
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(image.shape[0]))
    return jax.vmap(lambda k, x: _augment(k, x, config))(keys, image)


def _augment(key: jax.Array, image: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    flip, rotate, shift, gain = jax.random.split(key, 4)
    if config.flip:
        image = jnp.where(jax.random.bernoulli(flip), image[:, ::-1], image)
    if config.rotate or config.shift:
        angle = jnp.deg2rad(config.rotate) * jax.random.uniform(rotate, minval=-1.0)
        offset = config.shift * jax.random.uniform(shift, (2,), minval=-1.0)
        image = _rigid(image, angle, offset)
    if config.gain:
        image = jnp.clip(image * (1 + config.gain * jax.random.uniform(gain, minval=-1.0)), 0.0, 1.0)
    return image


def _rigid(image: jax.Array, angle: jax.Array, offset: jax.Array) -> jax.Array:
    """Rotation by `angle` radians about the centre and a shift by `offset` of the sides, bilinear, edges repeated."""
    height, width, _ = image.shape
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    y, x = jnp.meshgrid(jnp.arange(height) - centre[0], jnp.arange(width) - centre[1], indexing="ij")
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    source = (
        jnp.stack([cos * y - sin * x, sin * y + cos * x])
        + (centre + offset * jnp.array([height, width]))[:, None, None]
    )
    sample = lambda plane: jax.scipy.ndimage.map_coordinates(plane, source, order=1, mode="nearest")  # noqa: E731
    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)
