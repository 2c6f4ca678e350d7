"""Regenerates the goldens: `python tests/goldens/make_goldens.py` in an environment with PyTorch.

The reference networks below are written plainly in PyTorch with torchvision's layout and tensor names as it
documents them (torchvision itself is not needed). They run on weights made by `seeded.py`; of every block's
output a summary is kept. The tests make the same weights, load them through `osteojax.weights` and compare
block by block.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
KAIR = HERE.parents[2] / "shared" / "weights" / "kair_dncnn_25.pth"
sys.path.insert(0, str(HERE))

import seeded  # noqa: E402

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE = ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255))
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, v1: bool, eps: float) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width, eps)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width, eps)
        self.downsample = None
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(conv(inputs, width, 1, stride), nn.BatchNorm2d(width, eps))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, v1: bool, eps: float) -> None:
        super().__init__()
        first, second = (stride, 1) if v1 else (1, stride)
        outputs = 4 * width
        self.conv1, self.bn1 = conv(inputs, width, 1, first), nn.BatchNorm2d(width, eps)
        self.conv2, self.bn2 = conv(width, width, 3, second), nn.BatchNorm2d(width, eps)
        self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs, eps)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs, eps))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, depths: tuple[int, ...], block: type, v1: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64, eps)
        inputs = 64
        for index, depth in enumerate(depths):
            blocks = []
            for position in range(depth):
                stride = 2 if index and not position else 1
                blocks.append(block(inputs, 64 * 2**index, stride, v1, eps))
                inputs = 64 * 2**index * block.expansion
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, 1000)

    def blocks(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        yield "stem", x
        for stage in range(1, 5):
            for position, block in enumerate(getattr(self, f"layer{stage}")):
                x = block(x)
                yield f"stage{stage}/{position}", x
        yield "head", self.fc(x.mean((2, 3)))


class MBConv(nn.Module):
    """Names of the EfficientNet-PyTorch package, in which the Lite0 weights of the package index are stored."""

    def __init__(
        self, inputs: int, outputs: int, expansion: int, stride: int, size: int, bn: Callable, same: bool
    ) -> None:
        super().__init__()
        width = inputs * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = conv(inputs, width, 1), bn(width)
        self._depthwise_conv = SameConv(width, width, size, stride, groups=width, same=same)
        self._bn1 = bn(width)
        self._project_conv, self._bn2 = conv(width, outputs, 1), bn(outputs)
        self.expansion, self.residual = expansion, stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expansion == 1 else functional.relu6(self._bn0(self._expand_conv(x)))
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class SameConv(nn.Conv2d):
    """TensorFlow's SAME padding: the surplus below and to the right."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, groups: int, same: bool) -> None:
        super().__init__(inputs, outputs, size, stride, 0, groups=groups, bias=False)
        self.same = same

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, stride = self.kernel_size[0], self.stride[0]
        pads = []
        for length in (x.shape[3], x.shape[2]):
            total = (
                max((-(-length // stride) - 1) * stride + size - length, 0) if self.same else size // 2 * 2
            )
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, pads))


class EfficientNetLite0(nn.Module):
    def __init__(self, eps: float, momentum: float, same: bool) -> None:
        super().__init__()

        def bn(features: int) -> nn.BatchNorm2d:
            return nn.BatchNorm2d(features, eps, momentum)

        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2, groups=1, same=same), bn(32)
        inputs, blocks = 32, []
        rows = (
            (1, 16, 1, 1, 3),
            (6, 24, 2, 2, 3),
            (6, 40, 2, 2, 5),
            (6, 80, 3, 2, 3),
            (6, 112, 3, 1, 5),
            (6, 192, 4, 2, 5),
            (6, 320, 1, 1, 3),
        )
        for expansion, outputs, repeats, stride, size in rows:
            for position in range(repeats):
                blocks.append(MBConv(inputs, outputs, expansion, 1 if position else stride, size, bn, same))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = conv(320, 1280, 1), bn(1280)
        self._fc = nn.Linear(1280, 1000)

    def blocks(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        yield "stem", x
        stages = [1] * 3 + [2] * 2 + [3] * 6 + [4] * 5
        counts = dict.fromkeys(stages, 0)
        for stage, block in zip(stages, self._blocks, strict=True):
            x = block(x)
            yield f"stage{stage}/{counts[stage]}", x
            counts[stage] += 1
        x = functional.relu6(self._bn1(self._conv_head(x)))
        yield "stage4/5", x
        yield "head", self._fc(x.mean((2, 3)))


class VGG16BN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers, inputs = [], 3
        for width in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", *([512] * 3), "M", *([512] * 3), "M"):
            if width == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 1000),
        )

    def blocks(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        part, position = 0, 0
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                yield f"{'stem' if part == 0 else f'stage{part}'}/{position}", x
                position += 1
            if isinstance(layer, nn.MaxPool2d):
                part, position = part + 1, 0
        yield "head", self.classifier(torch.flatten(self.avgpool(x), 1))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, 128, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(128), conv(128, 32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(y)))], 1)


class DenseNet121(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Module()
        self.features.conv0 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.features.norm0 = nn.BatchNorm2d(64)
        inputs = 64
        for index, depth in enumerate((6, 12, 24, 16), 1):
            block = nn.Module()
            for position in range(1, depth + 1):
                setattr(block, f"denselayer{position}", DenseLayer(inputs))
                inputs += 32
            setattr(self.features, f"denseblock{index}", block)
            if index < 4:
                transition = nn.Module()
                transition.norm, transition.conv = nn.BatchNorm2d(inputs), conv(inputs, inputs // 2, 1)
                setattr(self.features, f"transition{index}", transition)
                inputs //= 2
        self.features.norm5 = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, 1000)

    def blocks(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        features = self.features
        x = functional.max_pool2d(functional.relu(features.norm0(features.conv0(x))), 3, 2, 1)
        yield "stem", x
        for index in range(1, 5):
            if index > 1:
                transition = getattr(features, f"transition{index - 1}")
                x = functional.avg_pool2d(transition.conv(functional.relu(transition.norm(x))), 2, 2)
                yield f"stage{index}/transition", x
            for position, layer in enumerate(getattr(features, f"denseblock{index}").children()):
                x = layer(x)
                yield f"stage{index}/{position}", x
        x = functional.relu(features.norm5(x))
        yield "stage4/final", x
        yield "head", self.classifier(x.mean((2, 3)))


NETWORKS = {
    "resnet18": (lambda: ResNet((2, 2, 2, 2), BasicBlock), IMAGENET),
    "resnet34": (lambda: ResNet((3, 4, 6, 3), BasicBlock), IMAGENET),
    "resnet50": (lambda: ResNet((3, 4, 6, 3), Bottleneck), IMAGENET),
    "resnet101": (lambda: ResNet((3, 4, 23, 3), Bottleneck), IMAGENET),
    "resnet152": (lambda: ResNet((3, 8, 36, 3), Bottleneck), IMAGENET),
    "resnet50_v1": (lambda: ResNet((3, 4, 6, 3), Bottleneck, True, 1.001e-5), CAFFE),
    "resnet101_v1": (lambda: ResNet((3, 4, 23, 3), Bottleneck, True, 1.001e-5), CAFFE),
    "resnet152_v1": (lambda: ResNet((3, 8, 36, 3), Bottleneck, True, 1.001e-5), CAFFE),
    "efficientnet_lite0": (lambda: EfficientNetLite0(1e-3, 0.01, True), LITE),
    "efficientnet_lite0_timm": (lambda: EfficientNetLite0(1e-5, 0.1, False), IMAGENET),
    "vgg16_bn": (VGG16BN, IMAGENET),
    "densenet121": (DenseNet121, IMAGENET),
}

TRAINED = ("resnet18", "efficientnet_lite0")
"""Networks of which training mode is kept too: activations, updated statistics, gradients."""


def nhwc(x: torch.Tensor) -> np.ndarray:
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).detach().numpy()


def make(name: str) -> dict[str, np.ndarray]:
    build, (mean, std) = NETWORKS[name]
    network = build()
    shapes = {
        key: tuple(value.shape)
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    weights = {key: torch.from_numpy(value) for key, value in seeded.state_dict(shapes).items()}
    network.load_state_dict(weights, strict=False)

    def normalised(images: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    x = normalised(seeded.images())

    goldens = {"keys": np.array(sorted(f"{key} {shape}" for key, shape in shapes.items()))}
    network.eval()
    with torch.no_grad():
        for block, output in network.blocks(x):
            goldens[f"eval:{block}"] = seeded.summary(nhwc(output))
        odd = dict(network.blocks(normalised(seeded.images(*seeded.ODD_SIZE))))
        goldens["odd:head"] = seeded.summary(odd["head"].numpy())
    if name in TRAINED:
        network.train()
        outputs = dict(network.blocks(x))
        goldens |= {f"train:{block}": seeded.summary(nhwc(output)) for block, output in outputs.items()}
        # ReLU6 clips and batches of 2x2 pixels make EfficientNet's gradient ill-conditioned.
        if name == "resnet18":
            goldens |= gradients(build(), weights, x)
        for key, buffer in network.named_buffers():
            if "running" in key:
                goldens[f"statistic:{key}"] = buffer.numpy()[:8].copy()
    return goldens


def gradients(network: nn.Module, weights: dict[str, torch.Tensor], x: torch.Tensor) -> dict[str, np.ndarray]:
    """The loss and the norm of every gradient in float64: PyTorch's own float32 is off by up to 1.5e-3 here."""
    network.load_state_dict(weights, strict=False)
    network = network.double().train()
    loss = functional.cross_entropy(dict(network.blocks(x.double()))["head"], torch.arange(seeded.BATCH))
    loss.backward()
    norms = {f"gradient:{key}": p.grad.norm().float().numpy() for key, p in network.named_parameters()}
    return {"loss": loss.detach().float().numpy(), **norms}


class DnCNN(nn.Module):
    """KAIR's, batch norm merged."""

    def __init__(self, depth: int = 17, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.model(x)


def make_dncnn() -> dict[str, np.ndarray]:
    """What generated weights make of a noisy image, and KAIR's own, whose answer stays where they are absent."""
    states = {
        "generated": {k: torch.from_numpy(v) for k, v in seeded.state_dict(seeded.dncnn_shapes()).items()}
    }
    if KAIR.is_file():
        states["kair_25"] = torch.load(KAIR, weights_only=True)
    network, image = DnCNN(), torch.from_numpy(seeded.noisy())[None, None]
    goldens = dict(np.load(HERE / "dncnn.npz")) if (HERE / "dncnn.npz").is_file() else {}
    for name, state in states.items():
        network.load_state_dict(state)
        with torch.no_grad():
            goldens[name] = network(image)[0, 0].numpy()
    return goldens


def make_files() -> None:
    """Small files as `torch.save` writes them: both containers, several dtypes, views, a parameter, a wrapper."""
    base = torch.from_numpy(seeded.tensor("files.weight", (4, 6)))
    state = {
        "float": base.clone(),
        "transposed": base.t(),
        "slice": base[1:3, 2:],
        "parameter": nn.Parameter(base[0].clone()),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "double": base.double(),
        "counter": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }
    folder = HERE / "pth"
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": state, "lr": 0.1}, folder / "wrapped.pth")
    torch.save(nn.Conv2d(1, 1, 1), folder / "module.pth")
    values = {name: value.detach().float().numpy() for name, value in state.items()}
    np.savez_compressed(folder / "values.npz", **values)


def main() -> None:
    make_files()
    for name in sys.argv[1:] or [*NETWORKS, "dncnn"]:
        seeded.write(HERE / f"{name}.npz", make_dncnn() if name == "dncnn" else make(name))


if __name__ == "__main__":
    main()
