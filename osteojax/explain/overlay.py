"""A map drawn over the radiograph that it explains, in the radiograph's own geometry."""

import matplotlib
import numpy as np
from jaxtyping import Float, Real, UInt8
from PIL import Image, ImageDraw, ImageFont

COLOURS = "inferno"
"""Perceptually uniform: equal steps of the map look equal. From black, so that what is faint stays dark."""
OPACITY = 0.6
"""Where the map is highest; the radiograph shows through even there."""

Window = tuple[slice, slice]


def overlay(
    radiograph: Real[np.ndarray, "height width"], saliency: Float[np.ndarray, "rows columns"], window: Window
) -> UInt8[np.ndarray, "height width 3"]:
    """The positive part of a map in colour over the grey radiograph.

    The more a pixel speaks for the class, the more its colour covers: where the map is 0 or less, the radiograph is
    left as it is.

    Args:
        radiograph: as decoded, of any size and range of values, which is stretched over black to white.
        saliency: at the network's resolution.
        window: rows and columns of the network's square that the radiograph fills, as of
            `data_prep.preprocess.placement`. What the map says of the padding is not drawn, but full strength is the
            highest value of the whole map: where a network looks at the padding, the bone stays grey.
    """
    grey = _stretched(radiograph)[..., None]
    strength = on_radiograph(_strength(saliency), radiograph.shape, window)
    colour = matplotlib.colormaps[COLOURS](strength)[..., :3].astype(np.float32)
    alpha = OPACITY * strength[..., None]
    return np.round(255 * ((1 - alpha) * grey + alpha * colour)).astype(np.uint8)


def stamped(picture: UInt8[np.ndarray, "height width 3"], words: str) -> UInt8[np.ndarray, "height width 3"]:
    """The picture with words across its top, as large as its width allows."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    size = max(8, round(1.5 * image.width / max(1, len(words))))
    draw.text((2, 2), words, fill=(255, 60, 60), font=ImageFont.load_default(size))
    return np.asarray(image)


def on_radiograph(
    saliency: Float[np.ndarray, "rows columns"], shape: tuple[int, ...], window: Window
) -> Float[np.ndarray, "height width"]:
    """A map at the network's resolution brought to the radiograph's (height, width); float32.

    The padding is cut off, the rest resized by the filter that preprocessing reduces with: what stood at a place of the
    radiograph comes back to it.
    """
    inside = np.ascontiguousarray(saliency[window], np.float32)
    height, width = shape
    return np.asarray(Image.fromarray(inside).resize((width, height), Image.Resampling.BILINEAR))


def _strength(saliency: np.ndarray) -> np.ndarray:
    """The positive part over its highest value, in [0, 1]; zeros where nothing is positive."""
    positive = np.maximum(saliency, 0)
    highest = positive.max()
    return positive / highest if highest > 0 else positive


def _stretched(pixels: np.ndarray) -> np.ndarray:
    """Float32 in [0, 1], black where the image is constant."""
    pixels = pixels.astype(np.float64)  # the difference of two int16 is none
    low, high = pixels.min(), pixels.max()
    return ((pixels - low) / (high - low if high > low else 1)).astype(np.float32)
