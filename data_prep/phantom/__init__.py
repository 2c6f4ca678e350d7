"""Synthetic knee radiographs with known truth: anatomy -> texture -> projection -> acquisition -> files."""

from data_prep.phantom.acquisition import Acquisition, draw_acquisition
from data_prep.phantom.anatomy import CLASS_NAMES, Patient, draw_patient
from data_prep.phantom.config import PhantomConfig
from data_prep.phantom.dataset import PhantomImage, generate_image, write_phantom

__all__ = [
    "CLASS_NAMES",
    "Acquisition",
    "Patient",
    "PhantomConfig",
    "PhantomImage",
    "draw_acquisition",
    "draw_patient",
    "generate_image",
    "write_phantom",
]
