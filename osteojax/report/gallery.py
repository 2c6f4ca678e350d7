"""Test images worth looking at, with where the network looked, and whether that can be believed."""

import base64
import dataclasses
import io

import jax
import numpy as np
from PIL import Image
from scipy.special import softmax

from osteojax import config as configs
from osteojax import leaky
from osteojax.data.dataset import Examples
from osteojax.explain.attention import attention_map
from osteojax.explain.overlay import overlay, stamped
from osteojax.explain.registry import EXPLAINERS
from osteojax.explain.sanity import Faithfulness, Resemblance, cascading_randomisation, deletion_and_insertion
from osteojax.models.build import ModelSection, build
from osteojax.models.network import Network
from osteojax.run.fitted import Fitted
from osteojax.run.open import Run

EACH = 4
_METHOD = "grad_cam"


@dataclasses.dataclass(frozen=True)
class Shown:
    """One picture of the gallery.

    Attributes:
        kind: "right", "wrong", "unsure" or "unlike the training images".
        place: of the example in its split.
        true, predicted: class names.
        probability: of the predicted class.
        picture: JPEG with the map over it.
        attention: JPEG with the head's attention over it, where it has one.
    """

    kind: str
    place: int
    true: str
    predicted: str
    probability: float
    picture: bytes
    attention: bytes | None = None

    @property
    def data_uris(self) -> list[str]:
        """For an `img` each: the picture, and the attention where there is one."""
        pictures = [self.picture] if self.attention is None else [self.picture, self.attention]
        return ["data:image/jpeg;base64," + base64.b64encode(picture).decode() for picture in pictures]


@dataclasses.dataclass(frozen=True)
class Explained:
    """The gallery, and the checks of its maps.

    Attributes:
        shown: pictures.
        randomised: how alike the maps stay as the network's parts are drawn anew, from the head down.
        faithfulness: what deleting and inserting the pixels of the map does.
        images: how many the checks were made on.
    """

    shown: list[Shown]
    randomised: list[Resemblance]
    faithfulness: Faithfulness
    images: int


def explained(
    run: Run, source: Examples, fitted: Fitted | None, logits: np.ndarray, labels: np.ndarray
) -> Explained:
    """The gallery of a split whose logits (N, C) and labels (N,) are known."""
    chosen = choose(run, source, fitted, logits, labels)
    places = [place for _, place in chosen]
    images = np.stack([example["image"] for example in source.__getitems__(places)])
    predicted = logits[places].argmax(-1)
    cut = run.network.cut(run.network.last_map)
    explainer = EXPLAINERS.bind(_METHOD, {}, {}, "explain.settings")
    maps = np.asarray(explainer(cut, run.params, run.batch_stats, images, predicted))
    words = leaky.WORDS if run.mark else ""
    looks: list[bytes | None] = [None] * len(images)
    if cut.attention is not None:
        attention = np.asarray(attention_map(cut, run.params, run.batch_stats, images))
        looks = [_jpeg(image[..., 0], look, words) for image, look in zip(images, attention, strict=True)]
    p = fitted.probabilities(logits) if fitted else softmax(logits, -1)
    names = run.class_names
    shown = [
        Shown(
            kind,
            place,
            names[labels[place]],
            names[guess],
            float(p[place, guess]),
            _jpeg(image[..., 0], saliency, words),
            look,
        )
        for (kind, place), image, saliency, guess, look in zip(
            chosen, images, maps, predicted, looks, strict=True
        )
    ]
    few = slice(0, 8)
    model = configs.read(ModelSection, run.config.model, "model")
    fresh = Network(build(model, run.record["origin"]["architecture"], len(names), seed=1)).init()
    randomised = cascading_randomisation(
        lambda params, stats: explainer(cut, params, stats, images[few], predicted[few]),
        (run.params, run.batch_stats), fresh, run.network.stages,
    )  # fmt: skip
    forward = jax.jit(cut.logits)
    faithful = deletion_and_insertion(
        lambda image: forward(run.params, run.batch_stats, image),
        images[few], predicted[few], maps[few], steps=14, cell=_cell(images.shape[1]),
    )  # fmt: skip
    return Explained(shown, randomised, faithful, len(images[few]))


def _cell(side: int) -> int:
    """The side of squares of which about seven fit into an image's: the map is no finer."""
    return max(size for size in range(1, side // 7 + 1) if side % size == 0)


def choose(
    run: Run, source: Examples, fitted: Fitted | None, logits: np.ndarray, labels: np.ndarray
) -> list[tuple[str, int]]:
    """(kind, place): the surest right and wrong answers, the least sure, and the strangest images."""
    top = np.sort(logits, -1)
    margin, right = top[:, -1] - top[:, -2], logits.argmax(-1) == labels
    order = np.argsort(-margin, kind="stable")
    chosen = [("right", int(i)) for i in order[right[order]][:EACH]]
    chosen += [("wrong", int(i)) for i in order[~right[order]][:EACH]]
    chosen += [("unsure", int(i)) for i in order[::-1][:EACH]]
    if fitted is not None:
        scores = fitted.novelty.scores(run.features(source), logits)
        flagged = np.flatnonzero((scores > fitted.novelty.thresholds).any(-1))
        strangest = flagged[np.argsort(-scores[flagged, 0], kind="stable")][:EACH]
        chosen += [("unlike the training images", int(i)) for i in strangest]
    return chosen


def _jpeg(image: np.ndarray, saliency: np.ndarray, words: str) -> bytes:
    window = (slice(0, image.shape[0]), slice(0, image.shape[1]))
    stream = io.BytesIO()
    Image.fromarray(stamped(overlay(image, saliency, window), words)).save(stream, "JPEG", quality=85)
    return stream.getvalue()
