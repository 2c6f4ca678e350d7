"""Small networks to explain, with running statistics and norms far from their neutral start."""

import jax
import jax.numpy as jnp
import numpy as np
import small
from flax import nnx

from osteojax.models.backbone import Backbone
from osteojax.models.layers.convolution import Input, LayerOptions, Linear
from osteojax.models.layers.norm import BatchNorm
from osteojax.models.network import Network

GREY = Input(1, (0.4, 0.5, 0.6), (0.2, 0.3, 0.2))
# Neither square nor of the same number of rows as any other size here; the cut leaves 4 x 6 positions.
HEIGHT, WIDTH = 32, 48


class HiddenHead(nnx.Module):
    """A head whose gradient by the activations differs from place to place, as VGG's does."""

    def __init__(self, positions, features, classes, *, rngs):
        self.fc1 = Linear(positions * features, 16, rngs=rngs)
        self.fc = Linear(16, classes, rngs=rngs)

    def __call__(self, h, mask=None):
        return self.fc(jax.nn.relu(self.fc1(h.reshape(len(h), -1))))


def model(*, hidden=False, dtype=jnp.float32, seed=0):
    """The architecture `tiny`, or the same with a `HiddenHead`; 3 classes."""
    options = LayerOptions(dtype=dtype, conv_impl="native")
    made = small.tiny("tiny", 3, image=GREY, options=options, rngs=nnx.Rngs(seed))
    if hidden:
        parts = [made.stem, [made.stage1, made.stage2, made.stage3, made.stage4]]
        made = Backbone("tiny", *parts, HiddenHead(4 * 6, 8, 3, rngs=nnx.Rngs(seed + 1)))
    rng = np.random.default_rng(seed)
    for _, module in nnx.iter_modules(made):
        if isinstance(module, BatchNorm):
            size = module.scale.shape[0]
            module.scale[...] = jnp.asarray(rng.uniform(0.5, 1.5, size), jnp.float32)
            module.bias[...] = jnp.asarray(rng.normal(0, 0.3, size), jnp.float32)
            module.mean[...] = jnp.asarray(rng.normal(0, 0.3, size), jnp.float32)
            module.var[...] = jnp.asarray(rng.uniform(0.5, 2, size), jnp.float32)
    return made


class Explained:
    """A network with the images and classes to explain: what every explainer takes."""

    def __init__(self, made=None, *, batch=2, upto="stage4", seed=0):
        rng = np.random.default_rng(seed)
        self.model = model() if made is None else made
        self.network = Network(self.model)
        self.cut = self.network.cut(upto)
        self.params, self.stats = self.network.init()
        self.image = rng.random((batch, HEIGHT, WIDTH, 1), np.float32)
        self.label = rng.permutation(np.arange(batch) % 3).astype(np.int32)

    def __iter__(self):
        return iter((self.cut, self.params, self.stats, self.image, self.label))

    def logit(self, image):
        """(B,) of the label, from the model itself, which `cut` has put into inference mode; differentiable."""
        return self.model(image)[jnp.arange(len(self.label)), self.label]
