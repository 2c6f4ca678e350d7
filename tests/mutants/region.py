"""The region of interest: masks, loop, weights, joint, and what preparation does of it."""

from tests.mutants.mutant import Mutant

_REGIONS = "tests/data_prep/phantom/test_regions.py"
_FIT = "tests/osteojax/train/test_fit.py"
_LOSS = "tests/osteojax/train/test_segmenter.py"
_UNET = "tests/osteojax/models/test_unet.py"
_WEIGHTS = "tests/data_prep/region/test_weights.py"
_JOINT = "tests/data_prep/region/test_joint.py"
_AUGMENT = "tests/osteojax/train/test_augmentations.py"
_MODELS = "tests/osteojax/models/test_models.py"
_PREPARED = "tests/data_prep/region/test_preparation.py"

REGION = (
    Mutant(
        "region: masks of a right knee not mirrored",
        "data_prep/phantom/acquisition.py",
        'flip = -1.0 if acquisition.side == "R" else 1.0',
        'flip = 1.0 if line_integral.min() < -5 else (-1.0 if acquisition.side == "R" else 1.0)',
        (_REGIONS,),
    ),
    Mutant(
        "region: masks behind the shutter",
        "data_prep/phantom/regions.py",
        "return np.where(shutter(acquisition, image_size), as_labels(*levels), np.uint8(BACKGROUND))",
        "return as_labels(*levels)",
        (_REGIONS,),
    ),
    Mutant(
        "region: joint space in the shadow of the condyles",
        "data_prep/phantom/regions.py",
        "between = both & (rows >= bottom) & (rows <= top)",
        "between = both & (rows <= top)",
        (_REGIONS,),
    ),
    Mutant(
        "region: a resumed loop begins its data anew",
        "osteojax/train/fit.py",
        "placed(batches(step))",
        "placed(batches(step - int(found[0].step)))",
        (_FIT,),
    ),
    Mutant(
        "region: a resumed loop forgets the steps since the last line",
        "osteojax/train/fit.py",
        "window = Window(pending)",
        "window = Window([])",
        (_FIT,),
    ),
    Mutant(
        "region: another config goes on in the same folder",
        "osteojax/train/fit.py",
        "            _check_continues(workdir, config)",
        "            pass",
        (_FIT,),
    ),
    Mutant(
        "region: the background has its Dice too",
        "osteojax/train/segmenter.py",
        "both = jnp.sum(p * truth, (0, 1, 2))[1:]",
        "both = jnp.sum(p * truth, (0, 1, 2))[:-1]",
        (_LOSS,),
    ),
    Mutant(
        "region: blocks come back transposed",
        "osteojax/models/unet.py",
        "blocks = x.reshape(batch, height, width, BLOCK, BLOCK, channels // BLOCK**2)\n    return blocks.transpose(0, 1, 3, 2, 4, 5)",
        "blocks = x.reshape(batch, height, width, BLOCK, BLOCK, channels // BLOCK**2)\n    return blocks.transpose(0, 1, 4, 2, 3, 5)",
        (_UNET,),
    ),
    Mutant(
        "region: tensors of any shape",
        "data_prep/region/weights.py",
        "if want != have:",
        "if False:",
        (_WEIGHTS,),
    ),
    Mutant(
        "region: weights that are not finite",
        "data_prep/region/weights.py",
        " or not np.isfinite(tensors[name]).all()",
        "",
        (_WEIGHTS,),
    ),
    Mutant(
        "region: an answer in doubt believed",
        "data_prep/region/joint.py",
        "if p.max(-1)[joints > 0].mean() < _LEAST_SURE:",
        "if False:",
        (_JOINT,),
    ),
    Mutant(
        "region: a joint with nothing above it believed",
        "data_prep/region/joint.py",
        "if np.count_nonzero(labels[: rows.stop, columns] == FEMUR) < size:",
        "if False:",
        (_JOINT,),
    ),
    Mutant(
        "region: the width of a joint space that is half seen",
        "data_prep/region/joint.py",
        "columns = np.flatnonzero((knees[near] == knee).any(0))",
        "columns = np.flatnonzero((joints == number).any(0))",
        (_JOINT,),
    ),
    Mutant(
        "region: specks masked in",
        "data_prep/region/joint.py",
        "np.isin(knees, knees[joints > 0])",
        "knees > 0",
        (_JOINT,),
    ),
    Mutant(
        "region: a mask that darkens nothing",
        "data_prep/preprocess.py",
        'if spec.region.how == "mask":',
        "if False:",
        (_PREPARED,),
    ),
    Mutant(
        "region: a crop placed by its columns",
        "data_prep/preprocess.py",
        "slice(math.floor(top * shape[0]), math.ceil(bottom * shape[0]))",
        "slice(math.floor(left * shape[0]), math.ceil(right * shape[0]))",
        (_PREPARED,),
    ),
    Mutant(
        "region: weights believed by the name of their file",
        "data_prep/region/segment.py",
        "if found != sha256:",
        "if False:",
        (_PREPARED,),
    ),
    Mutant(
        "region: a path out of the metadata opened",
        "data_prep/region/spec.py",
        'if not re.fullmatch("[0-9a-f]{64}", sha256):',
        "if False:",
        (_PREPARED,),
    ),
    Mutant(
        "region: the manifest does not say what was found",
        "data_prep/prepared.py",
        "region=done.region",
        'region=""',
        (_PREPARED,),
    ),
    Mutant(
        "region: a map where no knee is",
        "data_prep/region/joint.py",
        "bones: NDArray[np.float32] = dataclasses.field(default_factory=lambda: np.zeros((1, 1), np.float32))",
        "bones: NDArray[np.float32] = dataclasses.field(default_factory=lambda: np.ones((1, 1), np.float32))",
        (_PREPARED,),
    ),
    Mutant(
        "region: a map all over the square, padding included",
        "data_prep/preprocess.py",
        "return _rounded(_pad(map_, window, spec.image_size, 0.0), spec.value_bits)",
        "return _rounded(np.clip(_scaled(bones, *[spec.image_size] * 2), 0, 1), spec.value_bits)",
        (_PREPARED,),
    ),
    Mutant(
        "region: joint space is bone in the map",
        "data_prep/region/joint.py",
        "p[..., FEMUR] + p[..., TIBIA] + p[..., JOINT_SPACE] / 2",
        "p[..., FEMUR] + p[..., TIBIA] + p[..., JOINT_SPACE]",
        (_PREPARED,),
    ),
    Mutant(
        "region: brightness changes the map",
        "osteojax/train/augment.py",
        'if member.kind in ("geometry", "warp"):',
        'if member.kind != "occlusion":',
        (_AUGMENT,),
    ),
    Mutant(
        "region: a map takes the place of green",
        "osteojax/models/layers/convolution.py",
        "jnp.array([0, 0, 1])",
        "jnp.array([0, 1, 0])",
        (_MODELS,),
    ),
    Mutant(
        "region: training on weighs the Dice term by 1",
        "osteojax/train/segmenter.py",
        "return entropy + dice * (",
        "return entropy + 1.0 * (",
        (_LOSS,),
    ),
)
