"""Pictures for the page of a data set: prepared images, copies laid upon each other, and what denoising takes away."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np
from PIL import Image

from data_prep.manifest import Row

Load = Callable[[Row], np.ndarray]

SIDE = 160
# How much of the range the picture of a difference shows: trabeculae that go are a few grey levels.
_DIFFERENCE = 1 / 16


def figure(image: np.ndarray, alt: str, caption: str) -> str:
    """A picture of an image, (height, width) in [0, 1]."""
    picture = f'<img src="{_data_uri(image)}" alt="{escape(alt)}">'
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def gallery(figures: Sequence[str]) -> str:
    """Figures beside each other."""
    return f'<div class="gallery">{"".join(figures)}</div>'


def copies(pair: Mapping[str, Any], rows: Mapping[str, Row], load: Load) -> str:
    """A pair of near copies: the part, the whole, and the whole as the part shows it; empty where one is left out.

    Args:
        pair: of `audit.json`.
        rows: file -> row of what is in the data set.
        load: the prepared image of a row, (size, size, 1) in [0, 1].
    """
    part, whole = rows.get(pair["part"]), rows.get(pair["whole"])
    if part is None or whole is None:
        return ""
    ours, theirs = load(part)[..., 0], load(whole)[..., 0]
    how = [
        *(["mirrored"] if pair["mirrored"] else []),
        *([f"turned by {pair['rotation']:g} degrees"] if abs(pair["rotation"]) >= 1 else []),
        *(["negative"] if pair["inverted"] else []),
    ]
    laid = f"{', '.join(how) or 'cut and scaled'}; correlation {pair['correlation']:.3f}"
    return gallery(
        [
            figure(ours, "one image", f"{part.file} ({part.label}, {part.split})"),
            figure(theirs, "the image that it is a copy of", f"{whole.file} ({whole.label}, {whole.split})"),
            figure(
                laid_upon(theirs, pair),
                "the second laid upon the first",
                f"the second upon the first: {laid}",
            ),
        ]
    )


def laid_upon(whole: np.ndarray, pair: Mapping[str, Any]) -> np.ndarray:
    """The image that was copied, mirrored, cut to what the copy shows of it and turned as the copy is.

    Args:
        whole: (height, width) in [0, 1].
        pair: of `audit.json`; a box that reaches over the edge shows black there.

    Returns:
        (SIDE, SIDE) in [0, 1].
    """
    if pair["mirrored"]:
        whole = whole[:, ::-1]
    if pair["inverted"]:
        whole = 1 - whole
    height, width = whole.shape
    top, left, high, wide = pair["box"]
    centre = ((left + wide / 2) * width, (top + high / 2) * height)
    angle = np.deg2rad(pair["rotation"])
    # The box encloses the turned part, and is so much larger where that is as high as wide in units of the whole.
    larger = abs(np.cos(angle)) + abs(np.sin(angle))
    across, down = wide * width / larger, high * height / larger
    cos, sin = np.cos(angle), np.sin(angle)
    # From the picture's pixels to those of the whole; clockwise by the angle, as y runs downwards.
    turn = np.array([[cos, sin], [-sin, cos]]) @ np.diag([across / SIDE, down / SIDE])
    # A pixel's coordinates are those of its middle.
    shift = np.array(centre) - 0.5 - turn @ np.array([(SIDE - 1) / 2, (SIDE - 1) / 2])
    matrix = np.column_stack([turn, shift])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(whole.astype(np.float32), matrix, (SIDE, SIDE), flags=flags)


def denoising(row: Row, before: np.ndarray, after: np.ndarray) -> str:
    """What denoising did to an image: before, after, and the difference, of which grey is none.

    Args:
        row: of the image.
        before: prepared without the denoiser, (size, size, 1) in [0, 1].
        after: likewise, with it.
    """
    taken = before[..., 0].astype(float) - after[..., 0]
    mean = 255 * np.abs(taken).mean()
    return gallery(
        [
            figure(before[..., 0], "before denoising", f"{row.file}, before"),
            figure(after[..., 0], "after denoising", "after"),
            figure(
                np.clip(0.5 + taken / (2 * _DIFFERENCE), 0, 1),
                "the difference, enlarged",
                f"taken away, {mean:.2f} grey levels on average; black and white are {255 * _DIFFERENCE:.0f}",
            ),
        ]
    )


def _data_uri(image: np.ndarray) -> str:
    small = Image.fromarray(np.round(image * 255).astype(np.uint8))
    small = small.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
