"""Whose images they are: patient ids as they come, which of them are none, and which look like one.

A split by patient is worth what its ids are worth, and they come typed by hand, exported from spreadsheets, or replaced
by a word that stands for everybody.
"""

import re
import statistics
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from data_prep.pseudonym import pseudonym

# What spreadsheets, pandas and databases write for nothing.
MISSING = frozenset(
    {"", "nan", "none", "null", "nil", "n/a", "na", "<na>", "#n/a", "nat", "-", "--", "?", "unknown"}
)
# Hexadecimal digits of a pseudonym: among a million patients two share one by a chance of 1 in 36 million.
_HASHED = 16
# What anonymisers leave in a header, folded: such an id stands for anybody.
_NOBODY = re.compile(
    r"(anon(y(m(ous|i[sz]ed)?)?)?|deidentified|removed|deleted|unknown|unbekannt|none|null|nan|na|noid|no(patient)?id"
    r"|patient(id)?|dummy|test(patient)?|x+|0+|id)"
)
# A patient is suspect who holds so many images, and so many times as many as patients usually do.
_MANY, _MANY_TIMES = 5, 10


def given_id(text: str) -> str | None:
    """The patient id of a table's cell: None where it stands for nothing; `7.0`, a spreadsheet's 7, is `7`."""
    text = text.strip()
    if text.casefold() in MISSING:
        return None
    return re.sub(r"^(\d+)\.0+$", r"\1", text)


def header_id(text: str | None) -> str | None:
    """The PatientID of a DICOM header: None where it is absent or stands for anybody ("ANONYMOUS", "0")."""
    found = given_id(text or "")
    return None if found is None or _NOBODY.fullmatch(fold(found)) else found


def fold(patient: str) -> str:
    """What is left of an id without case, width, accents' composition, spaces, punctuation and invisible signs."""
    text = unicodedata.normalize("NFKC", patient).casefold()
    text = "".join(character for character in text if character.isalnum())
    return text.lstrip("0") or "0" if text.isdigit() else text


def equal_after_folding(patients: Iterable[str]) -> list[list[str]]:
    """Lists of different ids that are equal after `fold`: one person's, most likely."""
    variants = defaultdict(set)
    for patient in patients:
        variants[fold(patient)].add(patient)
    return [sorted(same) for key, same in sorted(variants.items()) if len(same) > 1 and key]


def holding_too_many(patients: Sequence[str]) -> list[tuple[str, int]]:
    """(patient, images) of those who hold at least 5 images and ten times the median of the others, or all of them."""
    counts = Counter(patients)
    found = []
    for patient, count in counts.most_common():
        others = [n for other, n in counts.items() if other != patient]
        usual = statistics.median(others) if others else 0
        if count >= _MANY and count >= _MANY_TIMES * usual:
            found.append((patient, count))
    return found


def assign_patients(
    files: Sequence[str],
    given: Sequence[str | None],
    in_header: Sequence[str | None],
    key: bytes | None = None,
) -> dict[str, str]:
    """File -> patient: as given, else a number for each DICOM PatientID, else the file itself.

    With a key the first two are pseudonyms that everyone who has the key gets again, from any set of images.

    Args:
        files: of the images, in an order that does not depend on the run.
        given: patient of each by the source's table.
        in_header: pseudonym of each by its DICOM header, under the same key where there is one.
        key: of the pseudonyms; without one given ids are kept, and of those of headers only equality counts.
    """
    numbers: dict[str, str] = {}
    patients = {}
    for file, known, of_header in zip(files, given, in_header, strict=True):
        if known is not None and key is not None:
            known = f"patient-{pseudonym(key, 'patient_id', known)[:_HASHED]}"
        elif known is None and of_header is not None:
            number = f"{len(numbers) + 1:05d}" if key is None else of_header[:_HASHED]
            known = numbers.setdefault(of_header, f"dicom-{number}")
        patients[file] = known or file
    return patients


def patient_warnings(patients: Mapping[str, str], given: Mapping[str, str] | None = None) -> list[str]:
    """What a reader of any result must know of the ids; sentences.

    Args:
        patients: file -> patient, as of `assign_patients`.
        given: file -> the id that a pseudonym stands for, which alone tells what it is a variant of.
    """
    warnings = []
    stands_for = {patients[file]: known for file, known in (given or {}).items()}
    known = [patient for file, patient in patients.items() if patient != file]
    own = len(patients) - len(known)
    if own:
        warnings.append(
            f"{own} of {len(patients)} images have no patient_id: each counts as a patient of its own, so two "
            "images of one person may be on both sides of the split"
        )
    if variants := equal_after_folding(stands_for.get(patient, patient) for patient in known):
        told = {stands_for.get(patient, patient): patient for patient in known}
        examples = "; ".join(" = ".join(repr(told[one]) for one in same) for same in variants[:3])
        warnings.append(
            f"{len(variants)} patients seem to have several ids, equal but for case, spaces, zeros or signs "
            f"({examples}): each counts as another patient; give each person one id"
        )
    for patient, count in holding_too_many(known):
        warnings.append(
            f"patient {patient!r} holds {count} of {len(patients)} images: if that id stands for several people, they "
            "count as one and stay on one side of the split"
        )
    return warnings
