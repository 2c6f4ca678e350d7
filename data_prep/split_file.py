"""`split.file`: a table that gives the split of every image, by file, id or patient; verified, not trusted.

That it does not leak is checked where all given splits are (`data_prep.split.check_given_splits`).
"""

import csv
import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from data_prep.prepared import PreparedImage, ids
from data_prep.source import SPLIT_NAMES, Source
from osteojax.errors import UserError
from osteojax.files import csv_text

KEYS = ("file", "id", "patient_id")
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class SplitFile:
    """A table of splits.

    Attributes:
        path: of the table.
        key: the column that says which image: one of `KEYS`.
        splits: value of that column -> split.
    """

    path: Path
    key: str
    splits: Mapping[str, str]

    @classmethod
    def read(cls, path: Path, allowed: Collection[str]) -> "SplitFile":
        """Reads a table with the columns split and file, id or patient_id, the first of them that it has.

        Args:
            path: of the table; a manifest.csv does.
            allowed: the splits that there may be.

        Raises:
            UserError: no such table, a column is missing, a split is none of those, or a row is there twice.
        """
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no CSV file in UTF-8"
            raise UserError(f"split.file={path} cannot be read: {reason}") from None
        columns = {name.strip().lower(): name for name in (rows[0] if rows else {}) if name}
        key = next((key for key in KEYS if key in columns), None)
        if key is None or "split" not in columns:
            raise UserError(
                f"split.file={path} needs the columns split and one of {', '.join(KEYS)}, and at least one row; it has "
                f"{', '.join(columns) or 'none'}"
            )
        names, given = (
            [csv_text((row[columns[column]] or "").strip()) for row in rows] for column in (key, "split")
        )
        splits = [SPLIT_NAMES.get(split.lower(), split.lower()) for split in given]
        wrong = [
            f"{name} ({split})" for name, split in zip(names, splits, strict=True) if split not in allowed
        ]
        if wrong:
            raise UserError(f"split.file={path}: {_some(wrong)}: a split is one of {', '.join(allowed)}")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UserError(f"split.file={path} has more than one row for {_some(twice)}; leave one of each")
        return cls(path, key, dict(zip(names, splits, strict=True)))

    def of_source(self, source: Source) -> Source:
        """The source with the split of each file, where the table is by file.

        Raises:
            UserError: the source gives splits itself, or the table names other files than the source has.
        """
        given = [record.file for record in source.records if record.split]
        if given:
            raise UserError(
                f"split.file={self.path} gives the splits, and so does the source ({_some(given)}); take one of them "
                "away"
            )
        if self.key != "file":
            return source
        known = {record.file for record in source.records} | {row.file for row in source.rejected}
        # Backslashes of a table from elsewhere are slashes.
        splits = {
            name if name in known else name.replace("\\", "/"): split for name, split in self.splits.items()
        }
        self._check_known(splits, known, "of the source")
        return dataclasses.replace(
            source,
            records=tuple(dataclasses.replace(r, split=splits.get(r.file)) for r in source.records),
        )

    def of_images(self, images: Sequence[PreparedImage]) -> list[PreparedImage]:
        """The images with the split of each, where the table is by id or by patient.

        Raises:
            UserError: the table names other ids or patients than there are.
        """
        if self.key == "file":
            return list(images)
        names = ids(images) if self.key == "id" else [self._patient(image) for image in images]
        self._check_known(self.splits, set(names), "of what was read")
        return [
            dataclasses.replace(image, record=dataclasses.replace(image.record, split=self.splits.get(name)))
            for image, name in zip(images, names, strict=True)
        ]

    def _patient(self, image: PreparedImage) -> str:
        """As the source has it, or as a manifest does (privacy.patient_ids)."""
        given = image.record.patient_id
        return given if given in self.splits and given is not None else image.patient_id

    def check_complete(self, images: Sequence[PreparedImage]) -> None:
        """Raises UserError where an image that is kept has no row; what is left out needs none."""
        missing = [image.record.file for image in images if image.record.split is None]
        if missing:
            raise UserError(
                f"split.file={self.path} has no row for {len(missing)} images: {_some(missing)}; add them to it, "
                "or take them out of the source"
            )

    def _check_known(self, names: Iterable[str], known: Collection[str], where: str) -> None:
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UserError(
                f"split.file={self.path}: {len(unknown)} rows are of no {self.key} {where}: {_some(unknown)}; give "
                "the table of these images"
            )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
