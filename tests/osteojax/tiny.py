"""A network of a few thousand parameters with the parts of a real one, so that a test compiles in a second.

Run as a script it is the console script with that network in the registry, for tests that need a process.
"""

import dataclasses

from osteojax.models import registry
from osteojax.models.backbone import Backbone, PoolHead, Stage
from osteojax.models.resnet import BasicBlock, Stem


def tiny(*, arch, num_classes, in_channels, mean, std, options, rngs):
    """One basic block a stage, eight channels everywhere behind the stem."""
    stem = Stem(in_channels=in_channels, mean=mean, std=std, options=options, rngs=rngs)
    widths = (64, 8, 8, 8, 8)
    stages = [
        Stage([BasicBlock(widths[i], widths[i + 1], 1 + (i == 3), v1=False, options=options, rngs=rngs)])
        for i in range(4)
    ]
    return Backbone(arch, stem, stages, PoolHead(8, num_classes, rngs=rngs))


def register():
    """Adds the architecture `tiny`."""
    spec = dataclasses.replace(registry.spec("resnet18"), name="tiny", build=tiny, settings={}, weights=None)
    registry.REGISTRY = {**registry.REGISTRY, "tiny": spec}


if __name__ == "__main__":
    register()
    from osteojax.cli import main

    main()
