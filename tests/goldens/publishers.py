"""Files as torchvision, timm and Hugging Face write them, against the networks that they are for.

    pip install torch torchvision timm transformers      # in an environment of their own: gigabytes
    JAX_PLATFORMS=cpu python -m tests.goldens.publishers

Each publisher's own network gets the weights of `seeded.py`, writes them in its own format, and classifies four
images; `osteojax.weights` loads the file, and the largest difference of the logits, relative to the largest logit, is
printed. It shows what the goldens cannot: that names, layouts, strides, paddings and epsilons are the publishers'.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
import transformers
from flax import nnx
from safetensors.torch import save_file
from torch import nn

from osteojax import models, weights
from osteojax.weights import layouts
from tests.goldens import seeded

TOLERANCE = 1e-4
IMAGES = seeded.images(*seeded.ODD_SIZE)
# timm's Swin shifts its windows by the size that it was built for.
BUILT_FOR = seeded.images(224, 224)[:2]


def fill(network: nn.Module) -> nn.Module:
    """The network with weights and running statistics far from neutral, ready to classify."""
    state = network.state_dict()
    values = {
        name: torch.from_numpy(seeded.tensor(name, tuple(value.shape)))
        for name, value in state.items()
        if value.is_floating_point()
    }
    network.load_state_dict({**state, **values})
    return network.eval()


def torchvision_file(name: str) -> Callable[[Path], tuple[Path, nn.Module]]:
    """torchvision's network and its .pth."""

    def write(folder: Path) -> tuple[Path, nn.Module]:
        network = fill(torchvision.models.get_model(name, weights=None))
        torch.save(network.state_dict(), folder / "model.pth")
        return folder / "model.pth", network

    return write


def timm_file(name: str, **settings: bool) -> Callable[[Path], tuple[Path, nn.Module]]:
    """timm's network and its .safetensors."""

    def write(folder: Path) -> tuple[Path, nn.Module]:
        network = fill(timm.create_model(name, pretrained=False, **settings))
        save_file(network.state_dict(), folder / "model.safetensors")
        return folder / "model.safetensors", network

    return write


def google_file(folder: Path) -> tuple[Path, nn.Module]:
    """A .npz with the names of Google's ViT-S/16, and timm's network, which reads it by itself."""
    layout = models.ARCHITECTURES.get("vit_small_patch16").layouts[1]
    tensors = {
        key: seeded.tensor(key, tuple(1000 if n == -1 else n for n in shape))
        for origin in layouts.origins_of(layout, "vit_small_patch16").values()
        for key, shape in zip(origin.keys, origin.shapes, strict=True)
    }
    # `seeded` takes PyTorch's order of axes for the number of inputs.
    tensors = {key: value / 8 if value.ndim > 1 else value for key, value in tensors.items()}
    np.savez(folder / "model.npz", **tensors)
    network = timm.create_model("vit_small_patch16_224", dynamic_img_size=True, dynamic_img_pad=True)
    network.load_pretrained(folder / "model.npz")
    return folder / "model.npz", network.eval()


def huggingface_file(depths: list[int], layer_type: str) -> Callable[[Path], tuple[Path, nn.Module]]:
    """Hugging Face's ResNet with the settings of the published microsoft/resnet-*, and its .safetensors."""

    def write(folder: Path) -> tuple[Path, nn.Module]:
        sizes = [256, 512, 1024, 2048] if layer_type == "bottleneck" else [64, 128, 256, 512]
        config = transformers.ResNetConfig(
            depths=depths, hidden_sizes=sizes, layer_type=layer_type, num_labels=1000
        )
        network = fill(transformers.ResNetForImageClassification(config))
        network.save_pretrained(folder)
        return folder / "model.safetensors", network

    return write


# (publisher, its name, our architecture, what writes the file)
FILES = [
    *(
        ("torchvision", name, name, torchvision_file(name))
        for name in (
            "resnet18",
            "resnet34",
            "resnet50",
            "resnet101",
            "resnet152",
            "vgg16_bn",
            "densenet121",
            "mobilenet_v2",
            "convnext_tiny",
            "efficientnet_b0",
            "mobilenet_v3_large",
            "swin_t",
        )
    ),
    *(
        ("timm", name, ours, timm_file(name))
        for name, ours in (
            ("resnet18", "resnet18"),
            ("resnet50", "resnet50"),
            ("resnet152", "resnet152"),
            ("tf_efficientnet_lite0", "efficientnet_lite0"),
            ("efficientnet_lite0", "efficientnet_lite0_timm"),
            ("vgg16_bn", "vgg16_bn"),
            ("densenet121", "densenet121"),
            ("mobilenetv2_100", "mobilenet_v2"),
            ("mobilenetv3_large_100", "mobilenet_v3_large_timm"),
            ("efficientnet_b0", "efficientnet_b0"),
            ("convnext_tiny", "convnext_tiny"),
            ("swin_tiny_patch4_window7_224", "swin_t"),
        )
    ),
    (
        "timm",
        "vit_small_patch16_224",
        "vit_small_patch16",
        timm_file("vit_small_patch16_224", dynamic_img_size=True, dynamic_img_pad=True),
    ),
    ("Google", "vit_small_patch16_224 of timm", "vit_small_patch16", google_file),
    ("Hugging Face", "microsoft/resnet-18", "resnet18", huggingface_file([2, 2, 2, 2], "basic")),
    ("Hugging Face", "microsoft/resnet-50", "resnet50", huggingface_file([3, 4, 6, 3], "bottleneck")),
    ("Hugging Face", "microsoft/resnet-152", "resnet152", huggingface_file([3, 8, 36, 3], "bottleneck")),
]


def compare(name: str, arch: str, write: Callable[[Path], tuple[Path, nn.Module]]) -> tuple[str, float]:
    """The layout that the file was recognised as, and the relative difference of the logits."""
    with tempfile.TemporaryDirectory() as folder:
        path, network = write(Path(folder))
        file = weights.load(path, arch)
    images = BUILT_FOR if name.startswith("swin_tiny") else IMAGES
    spec = models.ARCHITECTURES.get(arch).preprocessing
    mean, std = (torch.tensor(v)[:, None, None] for v in (spec.mean, spec.std))
    with torch.inference_mode():
        output = network((torch.from_numpy(images).permute(0, 3, 1, 2) - mean) / std)
    expected = getattr(output, "logits", output).numpy()
    model = models.create(arch, num_classes=1000, in_channels=3, rngs=nnx.Rngs(0))
    weights.apply(model, file, head="keep")
    model.eval()
    logits = np.asarray(nnx.jit(lambda model, x: model(x))(model, images))
    return file.provenance["layout"], float(np.abs(logits - expected).max() / np.abs(expected).max())


def main() -> None:
    """Prints the table; exits 1 where a difference is above the tolerance."""
    versions = (
        f"{module.__name__} {module.__version__}" for module in (torch, torchvision, timm, transformers)
    )
    print(", ".join(versions), "\n")
    print("| publisher | network | ours | recognised as | largest relative error |")
    print("|---|---|---|---|---|")
    worst = 0.0
    for publisher, name, arch, write in FILES:
        layout, error = compare(name, arch, write)
        worst = max(worst, error)
        print(f"| {publisher} | {name} | {arch} | {layout} | {error:.1e} |", flush=True)
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
