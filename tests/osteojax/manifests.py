"""Generated datasets with the manifests that preparation would write, and changes of them."""

import csv

import small

from osteojax.data.dataset import PreparedDataset


def write_manifest(data, seed):
    """A manifest as preparation writes it, with a hash of its own for each image and patient of a dataset."""
    dataset = PreparedDataset.open(data)
    with (data / "manifest.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ("id", "patient_id", "split", "sha256", "pixels"))
        table.writeheader()
        for split in dataset.splits:
            for example in dataset.source(split):
                name = example["id"].decode()
                patient = f"{seed}:{example['patient_id'].decode()}"
                row = {"id": name, "split": split, "sha256": f"content-{name}", "pixels": f"pixels-{name}"}
                table.writerow(row | {"patient_id": patient})


def change_manifest(data, split, **values):
    """Sets cells of the first row of a split."""
    with (data / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    next(row for row in rows if row["split"] == split).update(values)
    with (data / "manifest.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def datasets(folder):
    """Two, of images and patients of their own."""
    for seed, name in ((1, "first"), (2, "second")):
        write_manifest(
            small.write_dataset(folder / name, {"train": 16, "val": 6, "test": 6}, seed=seed), seed
        )
    return folder / "first", folder / "second"
