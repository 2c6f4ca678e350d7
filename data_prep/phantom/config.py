"""What a phantom data set consists of; everything else follows from the seed."""

import dataclasses

from osteojax.errors import UserError


@dataclasses.dataclass(frozen=True)
class PhantomConfig:
    """A phantom data set; two equal configs give the same files to the bit.

    Attributes:
        n_patients: number of patients; labels are assigned to patients, never to images.
        images_per_patient: smallest and largest number of images a patient, drawn uniformly.
        image_size: (height, width) in pixels; the longer side covers about 130 mm of the patient.
        bit_depth: 8 or 16, of the noisy images. The clean ones are always 16 bit.
        quanta: mean number of detected X-ray quanta per pixel behind the bone; each image varies around it by
            a quarter. More quanta, less noise: a clinical exposure gives about 5000 at this pixel size, the
            default is a low-dose one (34 dB PSNR on average at the default size).
        psnr_db: if given, the exposure of each image is solved so that its expected PSNR (peak 1.0) is this
            many decibels, and `quanta` is not used. 21.3 is the noisy PSNR of the published pipeline.
        class_balance: relative class sizes in the order healthy, osteopenia, osteoporosis; the default is the
            published study's.
        seed: root of every random draw.
        workers: processes that render; the files do not depend on it.
    """

    n_patients: int = 150
    images_per_patient: tuple[int, int] = (1, 3)
    image_size: tuple[int, int] = (448, 448)
    bit_depth: int = 8
    quanta: float = 150.0
    psnr_db: float | None = None
    class_balance: tuple[int, int, int] = (1200, 950, 870)
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        """Raises UserError, naming the field, for a value that makes no data set."""
        low, high = self.images_per_patient
        checks = {
            "n_patients must be at least 1": self.n_patients >= 1,
            "images_per_patient must be (smallest, largest) with 1 <= smallest <= largest": 1 <= low <= high,
            "image_size must be (height, width), each from 32 to 4096": (
                len(self.image_size) == 2 and all(32 <= n <= 4096 for n in self.image_size)
            ),
            "bit_depth must be 8 or 16": self.bit_depth in (8, 16),
            "quanta must be above 0": self.quanta > 0,
            "psnr_db must be from 10 to 60, or None": self.psnr_db is None or 10 <= self.psnr_db <= 60,
            "class_balance must hold three sizes of 0 or more, not all 0": (
                len(self.class_balance) == 3 and min(self.class_balance) >= 0 and sum(self.class_balance) > 0
            ),
            "seed must be 0 or more": self.seed >= 0,
            "workers must be at least 1": self.workers >= 1,
        }
        for message, holds in checks.items():
            if not holds:
                raise UserError(f"phantom: {message} (got {self})")
