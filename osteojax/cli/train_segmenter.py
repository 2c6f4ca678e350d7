"""`osteojax train-segmenter`."""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from osteojax.cli import flags
from osteojax.cli.train import EXIT_PREEMPTED

NAME = "train-segmenter"
SUMMARY = "Train the U-Net of `region.how` on phantoms; started again on the same workdir, it resumes."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--config",
        default="configs/segmenters/unet.py",
        help="config of the training; override with --config.key=value",
    )
    flags.add_workdir(parser)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from data_prep.phantom.films import draw_films, draw_leg
    from data_prep.region.spec import SIZE
    from data_prep.region.weights import make_unet, read_weights, write_weights
    from osteojax import config as configs
    from osteojax import storage
    from osteojax.devices.mesh import make_mesh
    from osteojax.progress import progress
    from osteojax.run.workdir import opened
    from osteojax.train.fit import fit
    from osteojax.train.loop import Preempted
    from osteojax.train.segmenter import SegmenterSettings, make_optimizer, segmentation_loss

    config = configs.load(arguments.config, overrides)
    settings = configs.read(SegmenterSettings, config)
    about = {"config_hash": configs.digest(config), "seed": str(settings.seed)}
    legs = []
    with progress("drawing legs", settings.legs) as advance:
        for index in range(settings.legs):
            legs.append(draw_leg(settings.seed, index))
            advance()

    def films(step: int) -> dict:
        image, label = draw_films(legs, SIZE, settings.batch_size, settings.seed, step)
        return {"image": image[..., None], "label": label}

    model = make_unet(settings.seed)
    if settings.init:
        model, about["init"] = read_weights(Path(settings.init), "init")
        model.train()
    try:
        with opened(arguments.workdir) as workdir:
            fit(
                model,
                functools.partial(segmentation_loss, dice=settings.dice),
                films,
                make_optimizer(settings),
                workdir,
                config=config,
                mesh=make_mesh(settings.mesh.data, settings.mesh.fsdp),
                steps=settings.steps,
                seed=settings.seed,
                checkpoint_every=settings.checkpoint_every,
                log_every=settings.log_every,
                shared=not storage.is_remote(arguments.workdir),
            )
            write_weights(workdir / "unet.safetensors", model, about)
    except Preempted as stop:
        print(f"osteojax {NAME}: {stop}", file=sys.stderr)
        return EXIT_PREEMPTED
    return 0
