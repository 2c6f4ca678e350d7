"""A source with something of everything, and what two data sets differ in."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage


def make_source(root: Path, pictures: int) -> Path:
    """Pictures of three classes with patients and ages; a copy, a contradiction, near copies; three files are none."""
    root.mkdir()
    lines = ["file,label,patient_id,age"]

    def add(name: str, pixels: np.ndarray, label: str, patient: str, age: object = "") -> None:
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / name)
        lines.append(f"{name},{label},{patient},{age}")

    made = []
    for i in range(pictures):
        noise = np.random.default_rng(i).standard_normal((128, 120))
        made.append(128 + 900 * ndimage.gaussian_filter(noise, 3) + 30 * ndimage.gaussian_filter(noise, 1))
        add(f"{i:02d}.png", made[i], ("healthy", "osteopenia", "osteoporosis")[i % 3], f"p{i // 2}", 50 + i)
    add("copy.png", made[0], "healthy", "p0")
    add("contradiction.png", made[5], "healthy", "x1")
    add("mirrored.png", made[7][:, ::-1], "osteopenia", "x2")
    add("cropped.png", made[9][10:, 12:], "healthy", "x3", 70)
    for name, content in {"poison.png": b"\x89PNG\r\n", "empty.dcm": b""}.items():
        (root / name).write_bytes(content)
        lines.append(f"{name},healthy,x4,")
    lines.append("gone.png,healthy,x5,")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def contents(out: Path) -> dict[str, bytes]:
    """All files of a data set by name."""
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def differing(one: Path, other: Path) -> list[str]:
    """Names of the files that two data sets do not share to the bit."""
    a, b = contents(one), contents(other)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
