"""A page of pictures: training images as the network sees them, so that a person can tell what goes too far."""

import base64
import io

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image

from osteojax.data.dataset import PreparedDataset
from osteojax.page import Html, document, paragraph, section, text
from osteojax.train import augment
from osteojax.train.experiment import Experiment
from osteojax.train.mix import mix
from osteojax.train.step import step_keys

IMAGES = 3
STEPS = 7


def augmentation_page(experiment: Experiment, dataset: PreparedDataset) -> Html:
    """The first training image of each of up to `IMAGES` classes, untouched and in the draws of steps 0 to `STEPS` - 1.

    All that is on together, mixing included, and each augmentation alone, by the code of the train step and with its
    keys: the rows are the first of the batch.

    Raises:
        UserError: no training split, or an impossible key of `augment`.
    """
    chain = augment.chain(experiment.augment)
    images, names = _examples(dataset)
    on = augment.switched_on(experiment.augment)
    said = ", ".join(f"{key}={value}" for key, value in on.items()) or "no augmentation is switched on"
    if experiment.mix.is_on:
        said += f"; mixup={experiment.mix.mixup:g}, cutmix={experiment.mix.cutmix:g}"
    drawn = []
    for step in range(STEPS):
        key, _ = step_keys(experiment.seed, step)
        seen = augment.apply(key, images, chain)
        if experiment.mix.is_on:
            seen, *_ = mix(key, seen, jnp.ones(len(seen)), experiment.mix)
        drawn.append(np.asarray(seen))
    parts = [section("together", "All together", paragraph(said), _rows(images, names, drawn))]
    for member, settings in chain.members:
        alone = augment.Chain(((member, settings),))
        draws = [
            np.asarray(augment.apply(step_keys(experiment.seed, step)[0], images, alone))
            for step in range(STEPS)
        ]
        title = type(settings).__name__
        parts.append(
            section(title.lower(), f"{title} alone", paragraph(settings), _rows(images, names, draws))
        )
    lead = paragraph(
        f"{dataset.directory}, seed {experiment.seed}: on the left the image as prepared, then the draws of steps 0 to "
        f"{STEPS - 1}. If you could no longer tell the class, the network cannot either."
    )
    return document("What the network sees", parts, lead=lead, mark=dataset.mark)


def _examples(dataset: PreparedDataset) -> tuple[jax.Array, list[str]]:
    """Images (N, H, W, C) and their class names: the first of each class."""
    found: dict[int, np.ndarray] = {}
    for example in dataset.source("train"):
        found.setdefault(int(example["label"]), example["image"])
        if len(found) == min(IMAGES, len(dataset.class_names)):
            break
    return jnp.asarray(np.stack(list(found.values()))), [dataset.class_names[label] for label in found]


def _rows(images: jax.Array, names: list[str], drawn: list[np.ndarray]) -> Html:
    rows = []
    for row, name in enumerate(names):
        pictures = [_figure(np.asarray(images[row]), f"{name}, as prepared")]
        pictures += [_figure(seen[row], f"{name}, step {step}") for step, seen in enumerate(drawn)]
        rows.append(f'<div class="gallery">{"".join(pictures)}</div>')
    return Html("".join(rows))


def _figure(image: Float[np.ndarray, "h w c"], caption: str) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.round(255 * image[..., 0]).astype(np.uint8)).save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    height, width, _ = image.shape
    return (
        f'<figure><img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{text(caption)}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )
