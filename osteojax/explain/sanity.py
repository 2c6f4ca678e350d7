"""Tests of whether to believe a map: does it follow the network, does the network follow it, is it where it should be.

Each number stands beside what a map without any information would get. Maps are (B, H, W), and what is said of an image
does not depend on the rest of its batch.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter
from scipy.special import softmax
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from osteojax.models.network import Flat

Forward = Callable[[np.ndarray], np.ndarray]
"""Images (B, H, W, C) float32 in [0, 1] to logits (B, classes), as `Run.forward`."""
Explain = Callable[[Flat, Flat], np.ndarray]
"""Parameters and statistics to maps (B, H, W): an explainer with all else filled in."""

BLUR = 5 / 224
"""Standard deviation of the blur that insertion starts from, in sides of the image: the authors' 5 pixels of 224."""


# Does the map follow the network? Randomisation of the parameters (Adebayo et al. 2018, arXiv:1810.03292).


@dataclasses.dataclass(frozen=True)
class Resemblance:
    """Of the maps of a network to those of the same network with some parts drawn anew.

    Attributes:
        parts: that were drawn anew.
        spearman: (B,) rank correlation of the two maps' pixels, in [-1, 1]. NaN where the network's own map is
            constant; 0 where only the other one is: nothing of the first is left in it.
        ssim: (B,) structural similarity of the two maps, each stretched over [0, 1]; at most 1.
    """

    parts: tuple[str, ...]
    spearman: Float[np.ndarray, " batch"]
    ssim: Float[np.ndarray, " batch"]


def cascading_randomisation(
    explain: Explain,
    trained: tuple[Flat, Flat],
    fresh: tuple[Flat, Flat],
    stages: Sequence[str],
) -> list[Resemblance]:
    """Draws the network's parts anew one after the other, from the head down, and compares the maps (section 4.1).

    A map that still resembles the trained network's when the parts are random shows the image, not what was learned.

    Args:
        explain: the images and their classes stay the same throughout.
        trained: parameters and running statistics.
        fresh: of the same architecture, just initialised; its seed is the draw. Statistics are replaced with the
            parameters: those of trained layers fit no other weights.
        stages: names of the parts, in order, as of `Network.stages`.

    Returns:
        One entry for each part, with that part and all after it drawn anew; the last has nothing left of the training.
    """
    maps = np.asarray(explain(*trained))
    found = []
    for first in reversed(range(len(stages))):
        parts = tuple(stages[first:])
        others = np.asarray(explain(*(redrawn(*pair, parts) for pair in zip(trained, fresh, strict=True))))
        found.append(Resemblance(parts, *resemblance(maps, others)))
    return found


def redrawn(trained: Flat, fresh: Flat, parts: Sequence[str]) -> Flat:
    """The trained arrays, but the fresh ones in these parts."""
    return {path: (fresh if path.split("/")[0] in parts else trained)[path] for path in trained}


def resemblance(
    maps: Float[np.ndarray, "batch height width"], others: Float[np.ndarray, "batch height width"]
) -> tuple[Float[np.ndarray, " batch"], Float[np.ndarray, " batch"]]:
    """Spearman's rank correlation and structural similarity, image by image, as `Resemblance` has them."""
    pairs = list(zip(maps, others, strict=True))
    spearman = [_rank_correlation(a, b) for a, b in pairs]
    ssim = [structural_similarity(_stretched(a), _stretched(b), data_range=1.0) for a, b in pairs]
    return np.asarray(spearman), np.asarray(ssim)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) == 0:
        return np.nan
    return 0.0 if np.ptp(b) == 0 else float(spearmanr(a, b, axis=None).statistic)


def _stretched(saliency: np.ndarray) -> np.ndarray:
    """Float64 in [0, 1]; zeros where the map is constant."""
    low, spread = saliency.min(), np.ptp(saliency)
    return (saliency.astype(np.float64) - low) / (spread if spread > 0 else 1)


# Does the network follow the map? Deletion and insertion (Petsiuk et al. 2018, arXiv:1806.07421).


@dataclasses.dataclass(frozen=True)
class Curves:
    """Probability of the explained class as pixels go or come, those first of which the map says that they matter most.

    Attributes:
        shares: (K + 1,) of the pixels that have gone or come, from 0 to 1.
        deletion: (B, K + 1) as pixels turn black: a good map's falls fast.
        insertion: (B, K + 1) as pixels of a blurred image turn sharp: a good map's rises fast.
    """

    shares: Float[np.ndarray, " points"]
    deletion: Float[np.ndarray, "batch points"]
    insertion: Float[np.ndarray, "batch points"]

    @property
    def deletion_area(self) -> Float[np.ndarray, " batch"]:
        """Area under the deletion curve, in [0, 1]; less is better."""
        return np.trapezoid(self.deletion, self.shares)

    @property
    def insertion_area(self) -> Float[np.ndarray, " batch"]:
        """Area under the insertion curve, in [0, 1]; more is better."""
        return np.trapezoid(self.insertion, self.shares)


@dataclasses.dataclass(frozen=True)
class Faithfulness:
    """Curves of a map, and those of a random order of the same cells."""

    of_map: Curves
    of_chance: Curves


def deletion_and_insertion(
    forward: Forward,
    image: Float[np.ndarray, "batch height width channels"],
    label: Int[np.ndarray, " batch"],
    saliency: Float[np.ndarray, "batch height width"],
    *,
    steps: int = 28,
    cell: int = 1,
    seed: int = 0,
) -> Faithfulness:
    """Deletion and insertion curves (section 3.2) of a map, beside those of a random order.

    Single pixels that go at random are noise, which confuses a network as no lesion would: their deletion curve falls
    faster than that of most maps. Cells as large as what the map resolves make the random order a fair one.

    Args:
        forward: of the network.
        image: (B, H, W, C) float32 in [0, 1].
        label: (B,) the class explained.
        saliency: (B, H, W) its map.
        steps: K, in which all pixels go.
        cell: side of the squares that go together, by the mean of the map in them; it divides H and W. The paper's
            is 1.
        seed: of the random order, and of the order of cells of which the map says the same.

    Raises:
        ValueError: cells of that side do not fill the image.
    """
    rng = np.random.default_rng(seed)
    # One random order for all images, so that none's depends on its neighbours.
    noise = np.broadcast_to(rng.random(saliency.shape[1:]), saliency.shape)
    of_map, of_chance = (
        _curves(forward, image, label, removal_ranks(values, cell, seed), steps)
        for values in (saliency, noise)
    )
    return Faithfulness(of_map, of_chance)


def removal_ranks(
    saliency: Float[np.ndarray, "batch height width"], cell: int, seed: int
) -> Int[np.ndarray, "batch height width"]:
    """When each pixel goes: the place of its cell, from 0, in the order of falling means.

    Raises:
        ValueError: cells of that side do not fill the image.
    """
    batch, height, width = saliency.shape
    if height % cell or width % cell:
        raise ValueError(f"cells of {cell} pixels do not fill {height} x {width}; choose a divisor of both")
    grid = saliency.reshape(batch, height // cell, cell, width // cell, cell).mean((2, 4), dtype=np.float64)
    flat = grid.reshape(batch, -1)
    # Maps have wide plains of equal values, zeros above all: in reading order they would go from the top.
    ties = np.broadcast_to(np.random.default_rng(seed).permutation(flat.shape[1]), flat.shape)
    order = np.lexsort((ties, -flat), axis=-1)
    return np.argsort(order, axis=-1).reshape(grid.shape).repeat(cell, 1).repeat(cell, 2)


def _curves(forward: Forward, image: np.ndarray, label: np.ndarray, ranks: np.ndarray, steps: int) -> Curves:
    cells = ranks.max() + 1
    counts = np.round(np.linspace(0, cells, steps + 1))
    blurred = gaussian_filter(image, (0, BLUR * image.shape[1], BLUR * image.shape[2], 0))
    deletion, insertion = [], []
    for count in counts:
        gone = (ranks < count)[..., None]
        deletion.append(_probability(forward, np.where(gone, np.float32(0), image), label))
        insertion.append(_probability(forward, np.where(gone, image, blurred), label))
    return Curves(counts / cells, np.stack(deletion, -1), np.stack(insertion, -1))


def _probability(forward: Forward, image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(B,) float64 of each image's class."""
    probabilities = softmax(np.asarray(forward(image), np.float64), axis=-1)
    return np.take_along_axis(probabilities, label[:, None], -1)[:, 0]


# Is the map where it should be? The pointing game (Zhang et al. 2018, arXiv:1608.00507).


@dataclasses.dataclass(frozen=True)
class Pointing:
    """Where maps point, image by image.

    Attributes:
        hits: (B,) 1 where the map's highest pixel lies in the mask, 0 where it does not; of several highest pixels,
            the share that does. A constant map gets its chance.
        mass: (B,) share of the positive part that lies in the mask; where nothing is positive, that of a constant map.
        chance: (B,) share of the image that the mask covers: what a map gets that knows nothing, in both.
    """

    hits: Float[np.ndarray, " batch"]
    mass: Float[np.ndarray, " batch"]
    chance: Float[np.ndarray, " batch"]


def pointing(
    saliency: Float[np.ndarray, "batch height width"], mask: Bool[np.ndarray, "batch height width"]
) -> Pointing:
    """The pointing game (without the paper's tolerance of 15 pixels), and the share of the map's mass in the mask."""
    highest = saliency == saliency.max((1, 2), keepdims=True)
    positive = np.maximum(saliency, 0)
    weighted = np.where(positive.any((1, 2), keepdims=True), positive, 1)
    return Pointing(_share(highest, mask), _share(weighted, mask), mask.mean((1, 2)))


def _share(weights: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(B,) of the weights' sum that lies in the mask."""
    return (weights * mask).sum((1, 2), dtype=np.float64) / weights.sum((1, 2), dtype=np.float64)
