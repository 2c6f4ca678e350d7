"""One image as the audit sees it."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class AuditRecord:
    """What the audit needs to know of an image besides its pixels.

    Attributes:
        file: name in the source; unique.
        label: class name.
        patient_id: patient; the file itself where none is known.
        sha256: of the decoded pixels, equal for equal pictures whatever the file format.
        n_bytes: size of the file.
        width, height, bits: of the file.
        sigma: estimated noise in grey levels of 255.
        metadata: further columns, as text; missing ones left out.
    """

    file: str
    label: str
    patient_id: str
    sha256: str
    n_bytes: int
    width: int
    height: int
    bits: int
    sigma: float
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
