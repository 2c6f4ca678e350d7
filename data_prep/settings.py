"""The preparation's config as typed sections, checked before anything is read or written."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict

from data_prep import dates
from data_prep.decode import Limits
from data_prep.denoise.registry import DenoiseSpec
from data_prep.phantom.config import PhantomConfig
from data_prep.preprocess import PreprocessSpec
from data_prep.region.spec import How, region_spec
from data_prep.source import class_lookup
from osteojax import folds
from osteojax.config import AtLeastOne, Bound, NotNegative, Positive, Share, read
from osteojax.errors import UserError

PATIENT, IMAGE, LABEL, DATE = "patient", "image", "label", "date"


@dataclasses.dataclass(frozen=True)
class DenoiseSection:
    """`denoise.*`: the denoiser, and the settings that the shipped ones have in common.

    Attributes:
        name: a member of `data_prep.denoise.registry.DENOISERS`.
        backend, profile: settings of BM3D. A backend "none" stands for the denoiser of that name.
        settings: of other denoisers, by name.
        sigma, noise_model: see `PreprocessSpec`.
        when, at: its `denoise_when`, `denoise_at`.
    """

    name: str = "bm3d"
    backend: str = "numba"
    profile: str = "fast"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sigma: Annotated[float, NotNegative] | None = None
    when: Literal["known", "always"] = "known"
    noise_model: Literal["gaussian", "poisson"] = "gaussian"
    at: Literal["native", "resized"] = "native"

    def spec(self) -> DenoiseSpec:
        """The denoiser with all its settings.

        Raises:
            UserError: no such denoiser, or a setting that is not allowed.
        """
        if "none" in (self.name, self.backend):
            return DenoiseSpec.of("none", self.settings)
        of_bm3d = {"backend": self.backend, "profile": self.profile} if self.name == "bm3d" else {}
        return DenoiseSpec.of(self.name, {**of_bm3d, **self.settings})


@dataclasses.dataclass(frozen=True)
class RegionSection:
    """`region.*`: see `data_prep.region.spec`.

    Attributes:
        how: what is done of the region of interest.
        weights: a segmenter's file; "" for the one of this package.
    """

    how: How = "none"
    weights: str = ""


@dataclasses.dataclass(frozen=True)
class SplitSection:
    """`split.*`: how the images are dealt; docs/splits.md.

    Attributes:
        train, val, test: share of the images of each split.
        folds: how many folds to deal instead; 0 for none. Which of them is tested is the training's to say.
        repeats: how many times the folds are dealt.
        by: what stays whole beside copies: a "patient", the values of a column, or an "image", which leaks.
        test_values: of the column `by`, which are the test split.
        after: a date; images whose date in the column `by` is later are the test split.
        stratify: columns of which every split gets its share; "label" is the class.
        file: a table that gives the split of every image.
        allow_leaky: take a split that leaks, and mark all that is made of it.
    """

    train: Annotated[float, Share] = 0.70
    val: Annotated[float, Share] = 0.15
    test: Annotated[float, Share] = 0.15
    folds: Annotated[int, Bound(low=0, high=100)] = 0
    repeats: Annotated[int, Bound(low=1, high=100)] = 1
    by: str = PATIENT
    test_values: tuple[str, ...] = ()
    after: str = ""
    stratify: tuple[str, ...] = (LABEL,)
    file: str = ""
    allow_leaky: bool = False

    @property
    def column(self) -> str | None:
        """The column that `by` names; None where it names none."""
        return None if self.by in (PATIENT, IMAGE) else self.by

    @property
    def has_boundary(self) -> bool:
        """Whether the test split is named, by values or by a date, and not dealt."""
        return bool(self.test_values or self.after)

    def told(self) -> dict[str, Any]:
        """What is not as it is by default, for the dataset's metadata."""
        kept = ("repeats", "by", "test_values", "after", "stratify", "allow_leaky")
        found = {key: getattr(self, key) for key in kept if getattr(self, key) != getattr(type(self), key)}
        return found | ({"file": True} if self.file else {})


@dataclasses.dataclass(frozen=True)
class AuditSection:
    """`audit.*`: what is looked for."""

    near_duplicates: bool = True
    shortcuts: bool = True


@dataclasses.dataclass(frozen=True)
class QuarantineSection:
    """`quarantine.*`."""

    max_fraction: Annotated[float, Share] = 0.1


@dataclasses.dataclass(frozen=True)
class LimitsSection:
    """`limits.*`: see `data_prep.decode.Limits`.

    Attributes:
        seconds: after which a file's worker is ended and the file left out. It is no limit on what is decoded, so that
            what was prepared under another one is taken from the cache.
    """

    max_pixels: Annotated[int, AtLeastOne] = Limits.max_pixels
    max_bytes: Annotated[int, AtLeastOne] = Limits.max_bytes
    min_side: Annotated[int, AtLeastOne] = Limits.min_side
    modalities: tuple[str, ...] = Limits.modalities
    seconds: Annotated[float, Positive] = 600.0

    @property
    def of_decoding(self) -> Limits:
        """Those that the decoder keeps."""
        return Limits(self.max_pixels, self.max_bytes, self.min_side, self.modalities)


@dataclasses.dataclass(frozen=True)
class PrivacySection:
    """`privacy.*`.

    Attributes:
        file_names: "keep", or "hash" to have every output name a file by a pseudonym.
        patient_ids: likewise of patients.
        key_file: holds the key of all pseudonyms; "" for the variable OSTEOJAX_PRIVACY_KEY, or a key of this run alone.
        burned_in: what is done about writing in the picture: it is not looked for, told, masked, or costs the image its
            place.
    """

    file_names: Literal["keep", "hash"] = "keep"
    patient_ids: Literal["keep", "hash"] = "keep"
    key_file: str = ""
    burned_in: Literal["ignore", "flag", "mask", "quarantine"] = "flag"


@dataclasses.dataclass(frozen=True)
class PhantomSection:
    """`phantom.*`: see `PhantomConfig`, which checks how they go together."""

    n_patients: Annotated[int, AtLeastOne] = 150
    images_per_patient: tuple[int, int] = (1, 3)
    image_size: tuple[int, int] = (448, 448)
    bit_depth: Literal[8, 16] = 8
    quanta: Annotated[float, Positive] = 150.0
    psnr_db: Annotated[float, Bound(low=10, high=60)] | None = None
    class_balance: tuple[int, int, int] = (1200, 950, 870)
    seed: Annotated[int, NotNegative] = 0


@dataclasses.dataclass(frozen=True)
class PrepareSettings:
    """Everything that a preparation can be told; `configs/prep/prep.py` holds the meaning of each."""

    seed: Annotated[int, NotNegative] = 0
    class_names: tuple[str, ...] = ("healthy", "osteopenia", "osteoporosis")
    class_aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    denoise: DenoiseSection = dataclasses.field(default_factory=DenoiseSection)
    image_size: Annotated[int, Bound(low=8, high=4096)] = 224
    aspect: Literal["squash", "letterbox"] = "squash"
    region: RegionSection = dataclasses.field(default_factory=RegionSection)
    split: SplitSection = dataclasses.field(default_factory=SplitSection)
    conflicts: Literal["quarantine", "keep"] = "quarantine"
    duplicates: Literal["drop", "keep"] = "drop"
    audit: AuditSection = dataclasses.field(default_factory=AuditSection)
    quarantine: QuarantineSection = dataclasses.field(default_factory=QuarantineSection)
    limits: LimitsSection = dataclasses.field(default_factory=LimitsSection)
    privacy: PrivacySection = dataclasses.field(default_factory=PrivacySection)
    workers: Annotated[int, Bound(low=-1)] = -1
    overwrite: bool = False
    phantom: PhantomSection = dataclasses.field(default_factory=PhantomSection)

    @property
    def spec(self) -> PreprocessSpec:
        """What determines the pixels."""
        denoise = self.denoise.spec()
        estimated = denoise.name != "none" and self.denoise.sigma is None
        return PreprocessSpec(
            denoise=denoise,
            sigma=self.denoise.sigma,
            # Of what is not estimated nothing depends on it, and neither does the fingerprint.
            denoise_when=self.denoise.when if estimated else "always",
            noise_model=self.denoise.noise_model,
            denoise_at=self.denoise.at,
            image_size=self.image_size,
            aspect=self.aspect,
            burned_in="mask" if self.privacy.burned_in == "mask" else "keep",
            region=region_spec(self.region.how, self.region.weights),
        )

    @property
    def dated(self) -> bool:
        """Whether the split looks at dates."""
        return DATE in (self.split.by, *self.split.stratify)

    @property
    def fractions(self) -> dict[str, float]:
        """Split -> share of the images."""
        split = self.split
        if split.folds:
            return {folds.fold_name(fold): 1 / split.folds for fold in range(split.folds)}
        return {"train": split.train, "val": split.val, "test": split.test}

    def phantom_config(self, workers: int) -> PhantomConfig:
        """What the phantom consists of."""
        return PhantomConfig(**{**vars(self.phantom), "workers": workers})


def read_settings(config: ConfigDict) -> PrepareSettings:
    """The settings of a preparation's config.

    Raises:
        UserError: an unknown key, a value that is not allowed, or values that do not go together.
    """
    settings = read(PrepareSettings, config)
    class_lookup(settings.class_names, settings.class_aliases)
    settings.spec  # noqa: B018  a denoiser that does not exist is told here
    settings.phantom_config(1)
    _check_split(settings.split)
    if settings.split.folds:
        if settings.split.folds < folds.FEWEST:
            raise UserError(
                f"split.folds={settings.split.folds}: one is tested, one validated and the others learned from; "
                f"{folds.FEWEST} at least, or 0 for none"
            )
    elif abs(sum(settings.fractions.values()) - 1) > 1e-6 or not settings.split.train:
        shown = ", ".join(f"split.{name}={value:g}" for name, value in settings.fractions.items())
        raise UserError(
            f"split fractions must lie in [0, 1], add up to 1, and give train a share; got {shown}"
        )
    return settings


def _check_split(split: SplitSection) -> None:
    """Raises UserError for ways to split that do not go together."""
    boundary = "split.after" if split.after else "split.test_values"
    if split.after and split.test_values:
        raise UserError("split.after and split.test_values both say what is tested; give one of them")
    if split.has_boundary and split.column is None:
        raise UserError(
            f"{boundary} is about a column, and split.by={split.by!r} names none; name it, as in "
            "--config.split.by=site"
        )
    if split.has_boundary and (split.folds or split.file):
        raise UserError(
            f"{boundary} says what is tested, and so does {'split.folds' if split.folds else 'split.file'}; "
            "give one of them"
        )
    if split.repeats > 1 and not split.folds:
        raise UserError(
            f"split.repeats={split.repeats} deals folds anew; say how many: --config.split.folds=5"
        )
    if split.repeats > 1 and split.file:
        raise UserError(
            f"split.repeats={split.repeats} deals anew, and split.file has one deal; give one of them"
        )
    if split.by == IMAGE and not split.allow_leaky:
        raise UserError(
            "split.by='image' puts images of one patient, and copies, on both sides: the test would measure memory. "
            "Split by patient; --allow_leaky_split does as asked and marks all that is made from it as leaky"
        )
    if not split.by or not split.stratify or not all(split.stratify):
        raise UserError(
            "split.by and split.stratify name columns, and one is empty; leave them at 'patient' and ('label',)"
        )
    if split.after:
        dates.parse(split.after, "split.after")
