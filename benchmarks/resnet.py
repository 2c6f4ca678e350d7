"""The networks that benchmarks compare: ours, and the same in PyTorch, with the same stages frozen."""

import numpy as np

# Stages of the stem's side that a preset freezes; with any of them the stem is frozen too.
FROZEN_STAGES = {"all": 0, "stage3+": 2, "stage4": 3, "head": 4}


def initial(config):
    """Recipe and state, before the first step, of a config of random weights."""
    import jax

    from osteojax.models.build import build
    from osteojax.models.network import Network
    from osteojax.train.experiment import read_experiment
    from osteojax.train.step import Recipe

    experiment = read_experiment(config)
    network = Network(build(experiment.model, config.model.name, 3, seed=0))
    recipe = Recipe.of(experiment, network, 1000, (1,) * 3)
    return recipe, jax.jit(recipe.init_state)(*network.init())


def random_batch(batch, image_size):
    """Images, labels and mask on the default device."""
    import jax

    rng = np.random.default_rng(0)
    return jax.device_put(
        {
            "image": rng.random((batch, image_size, image_size, 1), dtype=np.float32),
            "label": rng.integers(0, 3, batch).astype(np.int32),
            "mask": np.ones(batch, np.float32),
        }
    )


def our_step(config, batch, image_size):
    """A function of nothing that trains one step on one device, and what its compilation says of it."""
    import jax

    from osteojax.devices.mesh import make_mesh
    from osteojax.train.step import compile_step

    recipe, state = initial(config)
    data = random_batch(batch, image_size)
    compiled, facts = compile_step(recipe, 0, state, data, make_mesh(1, 1, jax.devices()[:1]))

    def step():
        nonlocal state
        state, metrics = compiled(state, data)
        jax.block_until_ready((state, metrics))

    return step, facts


def torch_model(preset, blocks=(3, 4, 6, 3)):
    """ResNet-50 (blocks of each stage) for grey images and three classes, channels_last, to be trained.

    What the preset freezes asks for no gradient, and its batch norm is in inference mode.
    """
    from torch import channels_last, nn
    from torch.nn import functional

    class Bottleneck(nn.Module):
        def __init__(self, features, width, stride):
            super().__init__()

            def conv(inputs, outputs, size, stride=1):
                convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
                return nn.Sequential(convolution, nn.BatchNorm2d(outputs))

            self.conv1 = conv(features, width, 1)
            self.conv2 = conv(width, width, 3, stride)
            self.conv3 = conv(width, 4 * width, 1)
            same = stride == 1 and features == 4 * width
            self.shortcut = nn.Identity() if same else conv(features, 4 * width, 1, stride)

        def forward(self, x):
            y = functional.relu(self.conv1(x), inplace=True)
            y = functional.relu(self.conv2(y), inplace=True)
            return functional.relu(self.conv3(y).add_(self.shortcut(x)), inplace=True)

    stem = nn.Sequential(
        nn.Conv2d(1, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    )
    stages, features = [], 64
    for index, depth in enumerate(blocks):
        stage = []
        for position in range(depth):
            stage.append(Bottleneck(features, 64 << index, 2 if index and not position else 1))
            features = 256 << index
        stages.append(nn.Sequential(*stage))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, 3))
    model = nn.Sequential(stem, *stages, head).to(memory_format=channels_last).train()
    frozen = FROZEN_STAGES[preset]
    for part in model[: frozen + 1 if frozen else 0]:
        part.eval().requires_grad_(False)
    return model
