"""Where the network looked, drawn over each file's own radiograph."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.decode import DEFAULT_LIMITS, decode, read_bytes
from data_prep.preprocess import PreprocessSpec, looked_at, placement, preprocess
from osteojax import leaky
from osteojax.explain.attention import attention_map
from osteojax.explain.overlay import overlay, stamped
from osteojax.explain.registry import EXPLAINERS
from osteojax.files import disk_errors, write_atomically
from osteojax.run.open import Run

_METHOD = "grad_cam"


def explain_files(
    run: Run, spec: PreprocessSpec, files: Sequence[tuple[Path, int]], folder: Path
) -> list[Path]:
    """Writes a PNG for each file, `NUMBER-NAME.png`: Grad-CAM of a class over the radiograph, in its size or
    in that of the crop that the network saw.

    Where the head has attention, `NUMBER-NAME-attention.png` beside it is where it looks.

    Args:
        run: whose network is explained.
        spec: how its images are made.
        files: readable files, each with the class to explain.
        folder: made where it is not there.

    Returns:
        What was written, in the order of the files.
    """
    cut = run.network.cut(run.network.last_map)
    explainer = EXPLAINERS.bind(_METHOD, {}, {}, "explain.settings")
    written = []
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number, (file, label) in enumerate(files):
            radiograph = decode(read_bytes(file, DEFAULT_LIMITS), DEFAULT_LIMITS)
            image = preprocess(radiograph.pixels, spec, radiograph.full_range, radiograph.pixel_aspect)
            saliency = explainer(cut, run.params, run.batch_stats, image[None], np.asarray([label]))
            maps = {"": saliency}
            if cut.attention is not None:
                maps["-attention"] = attention_map(cut, run.params, run.batch_stats, image[None])
            seen, _ = looked_at(radiograph.pixels, spec, radiograph.pixel_aspect)
            window = placement(seen.shape, spec, radiograph.pixel_aspect)
            for suffix, found in maps.items():
                path = folder / f"{number:05d}-{file.stem}{suffix}.png"
                drawn = overlay(seen, np.asarray(found[0]), window)
                stream = io.BytesIO()
                Image.fromarray(stamped(drawn, leaky.WORDS) if run.mark else drawn).save(stream, "PNG")
                write_atomically(path, stream.getvalue())
                written.append(path)
    return written
