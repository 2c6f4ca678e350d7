"""Who is in the picture: the bone micro-architecture, which depends on class, and everything that does not.

Structure, not mass, carries the class. Sizes, soft tissue, areal bone mass, age and sex are drawn from the
same distributions for every class, as in a cohort matched on all of them, so that brightness says nothing.
"""

import dataclasses

import numpy as np

CLASS_NAMES = ("healthy", "osteopenia", "osteoporosis")

# Mean and standard deviation a class, in CLASS_NAMES' order. For scale: micro-CT of the iliac crest of
# adults without bone disease gives BV/TV 0.15 +- 0.04, Tb.Th 0.17 +- 0.04 mm and Tb.Sp 0.78 +- 0.13 mm (Rubin
# et al., Bone 2010, doi 10.1016/j.bone.2009.09.020), and the knee's loaded epiphyses are denser. The
# direction of loss (fewer, thinner, farther struts and a thinner cortex) is that of Khosla et al. (J Bone
# Miner Res 2006;21:124), exaggerated to the ends of a T-score range; the spreads make neighbouring classes
# overlap.
_BV_TV = ((0.240, 0.026), (0.185, 0.026), (0.135, 0.024))
_TB_TH_MM = ((0.200, 0.016), (0.185, 0.016), (0.170, 0.016))
_ANISOTROPY = ((1.7, 0.18), (2.1, 0.22), (2.6, 0.26))
_CORTEX_MM = ((5.0, 0.60), (4.1, 0.60), (3.2, 0.55))
# The four losses go together within a patient: share of each one's variance that a common factor explains.
_COMMON_VARIANCE = 0.4


@dataclasses.dataclass(frozen=True)
class Patient:
    """Parameters of one patient, shared by all of the patient's images.

    Attributes:
        label: one of CLASS_NAMES.
        bv_tv: trabecular bone volume fraction, 0..1.
        tb_th_mm: trabecular thickness in mm.
        anisotropy: correlation length along the load lines over that across them, above 1.
        cortex_mm: cortical thickness of the femoral diaphysis in mm.
        size: linear size of the bones over the average, about 0.85 to 1.15.
        areal_mass: projected bone mass over the average.
        soft_tissue: soft-tissue width over the average.
        fat: fraction of the soft tissue that is adipose, 0..1.
        patella_mm: offset (lateral, distal) of the patella in mm.
        joint_space_mm: height of the tibiofemoral joint space in mm.
        age: years.
        sex: 'female' or 'male'.
    """

    label: str
    bv_tv: float
    tb_th_mm: float
    anisotropy: float
    cortex_mm: float
    size: float
    areal_mass: float
    soft_tissue: float
    fat: float
    patella_mm: tuple[float, float]
    joint_space_mm: float
    age: int
    sex: str

    @property
    def tb_n_per_mm(self) -> float:
        """Trabecular number per mm, BV/TV over Tb.Th (plate model, Parfitt 1987)."""
        return self.bv_tv / self.tb_th_mm

    @property
    def tb_sp_mm(self) -> float:
        """Trabecular separation in mm, 1/Tb.N - Tb.Th (plate model, Parfitt 1987)."""
        return 1.0 / self.tb_n_per_mm - self.tb_th_mm


def draw_patient(label: str, rng: np.random.Generator) -> Patient:
    """Draws a patient of class `label`; only the four micro-architecture parameters look at the label."""
    index = CLASS_NAMES.index(label)
    # The same number of draws for every class: a patient's matched parameters are those of the same seed with
    # another label, which lets a test change the label alone.
    common = rng.standard_normal()
    own = rng.standard_normal(4)
    z = np.clip(np.sqrt(_COMMON_VARIANCE) * common + np.sqrt(1.0 - _COMMON_VARIANCE) * own, -2.5, 2.5)

    def structural(table: tuple[tuple[float, float], ...], z_loss: float) -> float:
        mean, sd = table[index]
        return mean + sd * z_loss

    female = bool(rng.random() < 0.6)
    return Patient(
        label=label,
        bv_tv=structural(_BV_TV, z[0]),
        tb_th_mm=structural(_TB_TH_MM, z[1]),
        anisotropy=structural(_ANISOTROPY, -z[2]),
        cortex_mm=structural(_CORTEX_MM, z[3]),
        size=(0.95 if female else 1.05) * float(np.clip(rng.normal(1.0, 0.04), 0.9, 1.1)),
        areal_mass=float(np.exp(np.clip(rng.normal(0.0, 0.15), -0.35, 0.35))),
        soft_tissue=float(np.clip(rng.normal(1.0, 0.1), 0.8, 1.25)),
        fat=float(rng.uniform(0.1, 0.5)),
        patella_mm=(float(rng.normal(3.0, 2.5)), float(rng.normal(-22.0, 4.0))),
        joint_space_mm=float(np.clip(rng.normal(4.8, 0.8), 2.8, 7.0)),
        age=int(rng.integers(45, 86)),
        sex="female" if female else "male",
    )
