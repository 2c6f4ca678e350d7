"""Gradients of whole networks against PyTorch, where it, torchvision and timm are installed (gigabytes).

    pip install torch torchvision timm      # in an environment of their own
    pytest -m slow tests/osteojax/models/test_gradients.py

The cross-entropy of four images of 64 x 64, in inference mode: batch norms at their running statistics, no dropout.
PyTorch computes in float64. The error of a tensor is the norm of the difference over that of PyTorch's gradient, or
over a thousandth of the largest gradient's among the tensors where that is more: what is nearly nothing may be so here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from osteojax import models
from tests.goldens import seeded
from tests.osteojax.models.test_models_parity import origins, seeded_model

TOLERANCE = 1e-3
TORCHVISION = ("mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny", "swin_t")


def published(arch, torch):
    """The publisher's own network, with the weights of `seeded`, in float64."""
    if arch in TORCHVISION:
        network = pytest.importorskip("torchvision").models.get_model(arch, weights=None)
    else:
        timm = pytest.importorskip("timm")
        network = timm.create_model("vit_small_patch16_224", dynamic_img_size=True)
    state = network.state_dict()
    network.load_state_dict(
        state
        | {
            name: torch.from_numpy(seeded.tensor(name, tuple(value.shape)))
            for name, value in state.items()
            if value.is_floating_point()
        }
    )
    return network.double().eval()


@pytest.mark.slow
@pytest.mark.parametrize("arch", [*TORCHVISION, "vit_small_patch16"])
def test_gradients_equal_pytorch(arch):
    torch = pytest.importorskip("torch")
    network, images, label = published(arch, torch), seeded.images(), np.arange(4)
    spec = models.ARCHITECTURES.get(arch).preprocessing
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (spec.mean, spec.std))
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) - mean) / std
    torch.nn.functional.cross_entropy(network(x), torch.from_numpy(label)).backward()
    theirs = {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}

    model = seeded_model(arch)
    model.eval()

    @nnx.jit
    def gradient(model):
        def loss(model):
            return -jax.nn.log_softmax(model(images))[jnp.arange(4), label].mean()

        return nnx.grad(loss)(model)

    ours = {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(gradient(model))}
    named = origins(arch)
    wanted = {path: named[path].convert(*(theirs[key] for key in named[path].keys)) for path in ours}
    assert {key for path in ours for key in named[path].keys} == theirs.keys()
    floor = 1e-3 * max(np.linalg.norm(value) for value in wanted.values())
    errors = {
        path: np.linalg.norm(ours[path] - value) / max(np.linalg.norm(value), floor)
        for path, value in wanted.items()
    }
    worst = max(errors, key=errors.__getitem__)
    print(f"{arch}: {errors[worst]:.1e} at {worst}")
    assert errors[worst] < TOLERANCE, worst
