"""Patients to files: rendering, and a labelled folder that preparation reads like any other source."""

import csv
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.phantom.acquisition import Acquisition, draw_acquisition, expose
from data_prep.phantom.anatomy import CLASS_NAMES, Patient, draw_patient
from data_prep.phantom.config import PhantomConfig
from data_prep.phantom.projection import project
from data_prep.workers import start_worker
from osteojax.errors import UserError

# Middle of the range that an acquisition covers, in mm; the knee is rendered at that pixel size.
_NOMINAL_FIELD_MM = 132.0
_LABEL_FIELDS = ("file", "label", "patient_id", "age", "sex", "site", "side")
_TRUTH_FIELDS = (
    *("file", "label", "bv_tv", "tb_th_mm", "tb_sp_mm", "anisotropy", "cortex_mm"),
    *("areal_mass", "energy_kev", "quanta", "psnr_db"),
)


@dataclasses.dataclass(frozen=True)
class PhantomImage:
    """One synthetic radiograph and its truth.

    Attributes:
        clean: float32 (height, width) in [0, 1], bone bright, without noise.
        noisy: the same exposure with quantum and readout noise, on the same scale.
        patient: who is in it.
        acquisition: how it was taken.
        quanta: mean detected quanta per pixel behind the bone.
    """

    clean: NDArray[np.float32]
    noisy: NDArray[np.float32]
    patient: Patient
    acquisition: Acquisition
    quanta: float

    @property
    def psnr_db(self) -> float:
        """PSNR of `noisy` against `clean`, peak 1.0, in decibels."""
        return float(-10.0 * np.log10(np.mean((self.noisy.astype(np.float64) - self.clean) ** 2)))


def _rng(config: PhantomConfig, *key: int) -> np.random.Generator:
    """The generator of one node of the tree of draws; a node's numbers depend on no other node."""
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=key))


def patient_images(index: int, label: str, config: PhantomConfig) -> Iterator[PhantomImage]:
    """The images of patient `index`: one knee or both, repositioned and exposed anew for each."""
    rng = _rng(config, index, 0)
    patient = draw_patient(label, rng)
    low, high = config.images_per_patient
    sides = [str(side) for side in rng.choice(["L", "R"], size=int(rng.integers(low, high + 1)))]
    pitch = _NOMINAL_FIELD_MM / max(config.image_size)
    knees = {
        side: project(patient, pitch, _rng(config, index, 1, "LR".index(side))) for side in sorted(set(sides))
    }
    for number, side in enumerate(sides):
        rng = _rng(config, index, 2, number)
        acquisition = draw_acquisition(side, config.quanta, rng)
        clean, noisy, quanta = expose(
            knees[side], patient, acquisition, config.image_size, config.psnr_db, rng
        )
        yield PhantomImage(clean, noisy, patient, acquisition, quanta)


def generate_image(label: str, *, patient: int = 0, config: PhantomConfig | None = None) -> PhantomImage:
    """One radiograph in memory: the first image of patient number `patient`, made to be of class `label`.

    Args:
        label: 'healthy', 'osteopenia' or 'osteoporosis'.
        patient: number of the patient, 0 or more; every number is another person.
        config: size, noise and seed; the default is `PhantomConfig()`.

    Returns:
        the clean and the noisy image with their truth.

    Raises:
        UserError: an unknown label.
    """
    if label not in CLASS_NAMES:
        raise UserError(f"phantom: unknown label {label!r}; give one of {', '.join(CLASS_NAMES)}")
    return next(patient_images(patient, label, config or PhantomConfig()))


def patient_labels(config: PhantomConfig) -> list[str]:
    """Labels of all patients: exact quotas of the class balance (largest remainder), in random order."""
    share = np.array(config.class_balance, dtype=float) * config.n_patients / sum(config.class_balance)
    counts = np.floor(share).astype(int)
    for index in np.argsort(counts - share, kind="stable")[: config.n_patients - counts.sum()]:
        counts[index] += 1
    order = np.random.default_rng(np.random.SeedSequence(config.seed)).permutation(
        np.repeat(np.arange(len(CLASS_NAMES)), counts)
    )
    return [CLASS_NAMES[i] for i in order]


def _write_png(path: Path, image: NDArray[np.float32], bit_depth: int) -> None:
    dtype = np.uint8 if bit_depth == 8 else np.uint16
    pixels = np.rint(image * np.float32(np.iinfo(dtype).max)).astype(dtype)
    Image.fromarray(pixels).save(path, compress_level=1)


def _write_patient(
    task: tuple[int, str], folder: Path, config: PhantomConfig
) -> list[tuple[dict[str, object], dict[str, object]]]:
    index, label = task
    rows: list[tuple[dict[str, object], dict[str, object]]] = []
    for number, image in enumerate(patient_images(index, label, config)):
        name = f"p{index:05d}_{number}.png"
        _write_png(folder / "images" / name, image.noisy, config.bit_depth)
        _write_png(folder / "clean" / name, image.clean, 16)
        patient, file = image.patient, f"images/{name}"
        side = {"L": "left", "R": "right"}[image.acquisition.side]
        rows.append(
            (
                dict(
                    zip(
                        _LABEL_FIELDS,
                        (file, label, f"P{index:05d}", patient.age, patient.sex, "knee", side),
                        strict=True,
                    )
                ),
                dict(
                    zip(
                        _TRUTH_FIELDS,
                        (
                            *(file, label, f"{patient.bv_tv:.4f}", f"{patient.tb_th_mm:.4f}"),
                            *(
                                f"{patient.tb_sp_mm:.4f}",
                                f"{patient.anisotropy:.3f}",
                                f"{patient.cortex_mm:.3f}",
                            ),
                            *(f"{patient.areal_mass:.4f}", f"{image.acquisition.energy_kev:.2f}"),
                            *(f"{image.quanta:.1f}", f"{image.psnr_db:.3f}"),
                        ),
                        strict=True,
                    )
                ),
            )
        )
    return rows


def _write_table(path: Path, fields: tuple[str, ...], rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_phantom(out: Path, config: PhantomConfig) -> Path:
    """Writes a phantom data set; all of it or nothing.

    Files: `images/*.png` (noisy, 8 or 16 bit), `clean/*.png` (16 bit, same names, same scale, no noise),
    `labels.csv` (file, label, patient_id, age, sex, site, side) and `truth.csv` (what the labels must not
    show: the micro-architecture, the exposure and the PSNR of each image).

    Args:
        out: folder to create; must not exist, or be empty.
        config: what to generate.

    Returns:
        `out`.

    Raises:
        UserError: `out` exists and is not an empty folder.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"phantom: {out} exists already; remove it or give another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        (folder / "images").mkdir()
        (folder / "clean").mkdir()
        tasks = list(enumerate(patient_labels(config)))
        write = partial(_write_patient, folder=folder, config=config)
        if config.workers == 1:
            written = [write(task) for task in tasks]
        else:
            # Spawned, not forked: the caller may hold threads of JAX.
            with ProcessPoolExecutor(
                config.workers, mp_context=get_context("spawn"), initializer=start_worker
            ) as pool:
                written = list(pool.map(write, tasks, chunksize=4))
        rows = [row for patient_rows in written for row in patient_rows]
        _write_table(folder / "labels.csv", _LABEL_FIELDS, [labels for labels, _ in rows])
        _write_table(folder / "truth.csv", _TRUTH_FIELDS, [truth for _, truth in rows])
        folder.chmod(0o777 & ~_umask())
        if out.exists():
            out.rmdir()
        os.replace(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return out


def _umask() -> int:
    """The process's file mode mask: mkdtemp makes private folders, a data set is an ordinary one."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
