"""`osteojax train-denoiser`."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from osteojax.cli import flags

if TYPE_CHECKING:
    from osteojax.train.denoiser import DenoiserSettings, Film

NAME = "train-denoiser"
SUMMARY = "Train a DnCNN to denoise; started again on the same workdir, it resumes exactly where it was."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--config",
        default="configs/denoisers/dncnn.py",
        help="training config; override with --config.key=value",
    )
    flags.add_workdir(parser)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from osteojax import config as configs
    from osteojax import storage
    from osteojax.cli.train import EXIT_PREEMPTED
    from osteojax.run.workdir import opened
    from osteojax.train.denoiser import read_denoiser_settings, train_denoiser
    from osteojax.train.loop import Preempted

    config = configs.load(arguments.config, overrides)
    films = films_of(read_denoiser_settings(config))
    try:
        with opened(arguments.workdir) as workdir:
            weights = train_denoiser(config, films, workdir, shared=not storage.is_remote(arguments.workdir))
    except Preempted as stop:
        print(f"osteojax train-denoiser: {stop}", file=sys.stderr)
        return EXIT_PREEMPTED
    print(
        f"{weights}: choose it with --config.denoise.name=dncnn --config.denoise.settings=\"{{'weights': FILE}}\""
    )
    return 0


def films_of(settings: "DenoiserSettings") -> list["Film"]:
    """What the settings say to learn from.

    Phantoms for the loss "sure" get noise of a sigma of their own, once: afterwards nobody knows the clean ones.
    """
    from pathlib import Path

    import numpy as np

    from data_prep import training_films
    from osteojax.train.denoiser import Film
    from osteojax.weights.dncnn import GREY_LEVEL

    data = settings.data
    if data.source != "phantom":
        folder = Path(data.source)
        if settings.loss == "sure":
            return [Film(*found) for found in training_films.noisy_radiographs(folder, data.images)]
        return [
            Film(film) for film in training_films.reduced_radiographs(folder, data.images, data.image_sizes)
        ]
    clean = training_films.clean_phantoms(data.images, data.image_sizes, data.seed)
    if settings.loss == "supervised":
        return [Film(film) for film in clean]
    rng = np.random.default_rng(data.seed)
    sigmas = rng.uniform(*settings.sigma, len(clean)) * GREY_LEVEL
    return [
        Film(film + rng.normal(0, sigma, film.shape).astype(np.float32), float(sigma))
        for film, sigma in zip(clean, sigmas, strict=True)
    ]
