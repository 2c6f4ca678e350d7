"""Regenerates the goldens of the networks that are taken from torchvision and timm as they are.

    pip install torch torchvision timm      # in an environment of their own: gigabytes
    python tests/goldens/make_publisher_goldens.py [ARCH ...]

As `make_goldens.py`, whose networks are written out; here the publishers' own are called child by child, and their
names, shapes, epsilons and momenta are kept.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import seeded  # noqa: E402
from make_goldens import IMAGENET, nhwc  # noqa: E402

Blocks = Iterator[tuple[str, torch.Tensor]]
BUFFERS = ("num_batches_tracked", "relative_position_index")
"""What a state dict holds beside weights."""
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LARGE = 448


class Mobile:
    """Mobile networks of torchvision: a list of blocks, in groups or not; `starts` are those that open our stages."""

    def __init__(self, name: str, *starts: int) -> None:
        self.network = torchvision.models.get_model(name, weights=None)
        self.starts = starts

    def blocks(self, x: torch.Tensor) -> Blocks:
        """Our name and the output of every block."""
        first, *groups, last = self.network.features
        flat = [
            block for group in groups for block in (group if isinstance(group, nn.Sequential) else [group])
        ]
        stage, position = 0, 0
        for place, block in enumerate([first, *flat, last]):
            if place in self.starts:
                stage, position = stage + 1, 0
            x = block(x)
            yield f"stage{stage}/{position}" if stage else "stem", x
            position += 1
        yield "head", self.network.classifier(x.mean((2, 3)))


class MobileV3OfTimm:
    """timm's MobileNetV3, whose hidden layer is a convolution behind the pooling; `starts` as above."""

    def __init__(self, name: str, *starts: int) -> None:
        self.network = timm.create_model(name)
        self.starts = starts

    def blocks(self, x: torch.Tensor) -> Blocks:
        """Our name and the output of every block."""
        x = self.network.bn1(self.network.conv_stem(x))
        yield "stem", x
        stage, position = 0, 0
        for place, block in enumerate((b for group in self.network.blocks for b in group), 1):
            if place in self.starts:
                stage, position = stage + 1, 0
            x = block(x)
            yield f"stage{stage}/{position}", x
            position += 1
        yield "head", self.network.forward_head(x)


class Pyramid:
    """ConvNeXt and Swin of torchvision: a stem, then stages and what leads from one to the next in turn."""

    def __init__(self, name: str) -> None:
        self.network = torchvision.models.get_model(name, weights=None)
        self.channels_last = name.startswith("swin")

    def blocks(self, x: torch.Tensor) -> Blocks:
        """Our name and the output of every block."""
        for place, part in enumerate(self.network.features):
            if place % 2 == 0:
                x = part(x)
                yield f"stage{place // 2 + 1}/transition" if place else "stem", self.shown(x)
                continue
            for position, block in enumerate(part):
                x = block(x)
                yield f"stage{place // 2 + 1}/{position}", self.shown(x)
        if self.channels_last:
            x = self.network.norm(x)
            yield "stage4/final", self.shown(x)
            yield "head", self.network.head(x.mean((1, 2)))
        else:
            yield "head", self.network.classifier(self.network.avgpool(x))

    def shown(self, x: torch.Tensor) -> torch.Tensor:
        """x as (B, C, H, W)."""
        return x.permute(0, 3, 1, 2) if self.channels_last else x


class ViT:
    """A plain vision transformer of timm: twelve blocks, three of which are one of our stages."""

    def __init__(self, name: str) -> None:
        self.network = timm.create_model(name, dynamic_img_size=True, dynamic_img_pad=True)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> tokens (B, 1 + h w, C) with their positions."""
        return self.network.norm_pre(
            self.network.pos_drop(self.network._pos_embed(self.network.patch_embed(x)))
        )

    def blocks(self, x: torch.Tensor) -> Blocks:
        """Our name and the output of every block."""
        x = self.stem(x)
        yield "stem", x
        for place, block in enumerate(self.network.blocks):
            x = block(x)
            yield f"stage{place // 3 + 1}/{place % 3}", x
        x = self.network.norm(x)
        yield "stage4/final", x
        yield "head", self.network.head(x[:, 0])


NETWORKS = {
    "mobilenet_v2": (lambda: Mobile("mobilenet_v2", 1, 4, 7, 14), IMAGENET),
    "convnext_tiny": (lambda: Pyramid("convnext_tiny"), IMAGENET),
    "vit_small_patch16": (lambda: ViT("vit_small_patch16_224"), INCEPTION),
    "efficientnet_b0": (lambda: Mobile("efficientnet_b0", 1, 4, 6, 12), IMAGENET),
    "mobilenet_v3_large": (lambda: Mobile("mobilenet_v3_large", 1, 4, 7, 13), IMAGENET),
    "swin_t": (lambda: Pyramid("swin_t"), IMAGENET),
    "mobilenet_v3_large_timm": (lambda: MobileV3OfTimm("mobilenetv3_large_100", 1, 4, 7, 13), IMAGENET),
}
TIMM = {
    "mobilenet_v2": "mobilenetv2_100",
    "efficientnet_b0": "efficientnet_b0",
    "convnext_tiny": "convnext_tiny",
    "swin_t": "swin_tiny_patch4_window7_224",
}
"""Networks whose tensors timm calls otherwise than torchvision: ours and timm's name."""


def norms(network: nn.Module) -> list[str]:
    """Of each norm that holds weights, the tensor that scales and the constants."""
    return sorted(
        f"{name}.weight {module.eps:g} {getattr(module, 'momentum', 0):g}"
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)
    )


def names_of_timm() -> dict[str, np.ndarray]:
    """Name and shape of every tensor that timm's networks hold."""
    found = {}
    for ours, theirs in TIMM.items():
        state = timm.create_model(theirs).state_dict()
        found[ours] = np.array(
            sorted(f"{key} {tuple(value.shape)}" for key, value in state.items() if not key.endswith(BUFFERS))
        )
    return found


def make(name: str) -> dict[str, np.ndarray]:
    """The arrays of one golden."""
    build, (mean, std) = NETWORKS[name]
    whole = build()
    state = whole.network.state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items() if not key.endswith(BUFFERS)}
    weights = {key: torch.from_numpy(value) for key, value in seeded.state_dict(shapes).items()}
    whole.network.load_state_dict({**state, **weights})
    whole.network.eval()

    def normalised(images: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    goldens = {
        "keys": np.array(sorted(f"{key} {shape}" for key, shape in shapes.items())),
        "norms": np.array(norms(whole.network)),
    }
    with torch.inference_mode():
        for block, output in whole.blocks(normalised(seeded.images())):
            goldens[f"eval:{block}"] = seeded.summary(nhwc(output))
        odd = dict(whole.blocks(normalised(seeded.images(*seeded.ODD_SIZE))))
        goldens["odd:head"] = seeded.summary(odd["head"].numpy())
        if isinstance(whole, ViT):
            large = whole.stem(normalised(seeded.images(LARGE, LARGE)[:1]))
            goldens["large:stem"] = seeded.summary(large.numpy())
    return goldens


def main() -> None:
    """Writes the files."""
    print(torch.__version__, torchvision.__version__, timm.__version__)
    for name in sys.argv[1:] or [*NETWORKS, "timm_names"]:
        seeded.write(HERE / f"{name}.npz", names_of_timm() if name == "timm_names" else make(name))


if __name__ == "__main__":
    main()
