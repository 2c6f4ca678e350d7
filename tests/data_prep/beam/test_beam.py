"""On Beam: the same files to the bit as the local runner's, whatever happens to a worker."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("apache_beam", reason="pip install -c constraints.txt -e '.[beam]'")

import apache_beam as beam

from data_prep import shards
from data_prep.beam.options import read_options
from data_prep.beam.pipeline import _Spread, beam_runner
from data_prep.beam.shared import Shared
from data_prep.beam.stages import prepare_file
from data_prep.image_task import Failed
from data_prep.prepare import prepare
from data_prep.workers import Guard, TookTooLong, WorkerDied
from osteojax import config as configs
from osteojax import storage
from osteojax.cli.main import run as command
from osteojax.errors import UserError
from tests.data_prep.beam.source import contents, differing, make_source
from tests.data_prep.beam.trouble import HANGS, KILLS, make_trouble

# One thread, and so one worker process to start.
HERE = ("--beam.runner=DirectRunner", "--beam.direct_num_workers=1")


def settings(**changes):
    words = [f"--config.{key.replace('__', '.')}={value}" for key, value in changes.items()]
    return configs.load(
        "configs/prep/prep.py",
        ["--config.denoise.backend=none", "--config.image_size=64", "--config.workers=0", *words],
    )


@pytest.fixture
def source(tmp_path) -> Path:
    return make_source(tmp_path / "source", 15)


def test_every_file_is_the_local_runners_to_the_bit(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "EXAMPLES_PER_SHARD", 4)
    config = settings(quarantine__max_fraction=0.2)
    local = prepare(source, tmp_path / "local", config)
    distributed = prepare(source, tmp_path / "beam", config, beam_runner(HERE, str(tmp_path / "work")))
    assert not differing(tmp_path / "local", tmp_path / "beam")
    assert distributed.warnings == local.warnings and distributed.images == local.images
    names = contents(tmp_path / "beam")
    assert "radiographs-train.array_record-00002-of-00003" in names
    for found in (b"mirrored.png", b"cropped.png", b"contradiction.png"):
        assert found in names["audit.json"]
    assert {b"poison.png", b"empty.dcm", b"gone.png", b"copy.png"} <= {
        line.split(b",")[0] for line in names["quarantine.csv"].splitlines()
    }
    assert not (tmp_path / "beam.partial").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["crop", "channel"])
def test_a_region_is_found_by_workers_as_it_is_here(how, tmp_path):
    config = settings(region__how=how, audit__shortcuts=False, audit__near_duplicates=False)
    config.phantom.update({"n_patients": 9, "images_per_patient": (1, 1), "image_size": (96, 96)})
    prepare("phantom", tmp_path / "local", config)
    prepare("phantom", tmp_path / "beam", config, beam_runner(HERE, str(tmp_path / "work")))
    assert not differing(tmp_path / "local", tmp_path / "beam")
    assert b",found" in contents(tmp_path / "beam")["manifest.csv"]


def test_started_again_it_takes_every_image_from_the_work_that_is_kept(source, tmp_path, monkeypatch):
    config = settings(quarantine__max_fraction=0.2, audit__shortcuts=False, audit__near_duplicates=False)
    monkeypatch.setenv("OSTEOJAX_PRIVACY_KEY", "0" * 32)  # names in the cache are those of the key
    monkeypatch.setattr(Guard, "run", in_this_process)
    prepare(source, tmp_path / "first", config, beam_runner(HERE, str(tmp_path / "work")))
    monkeypatch.setattr("data_prep.image_task._store", None)
    prepare(source, tmp_path / "again", config, beam_runner(HERE, str(tmp_path / "work")))
    assert not differing(tmp_path / "first", tmp_path / "again")


def in_this_process(guard, function, task, seconds):
    """Instead of `Guard.run`, where what matters is what follows."""
    return function(task)


def test_files_that_hang_and_files_that_kill_cost_themselves(source, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", make_trouble(tmp_path / "site"))
    (source / "poison.png").write_bytes(HANGS)
    (source / "empty.dcm").write_bytes(KILLS)
    config = settings(
        quarantine__max_fraction=0.2, limits__seconds=4, audit__shortcuts=False, audit__near_duplicates=False
    )
    prepare(source, tmp_path / "out", config, beam_runner(HERE, None))
    reasons = contents(tmp_path / "out")["quarantine.csv"].decode()
    assert "poison.png,took longer than limits.seconds=4\n" in reasons
    assert "empty.dcm,the worker process died on it (crash or out of memory)\n" in reasons
    assert "gone.png,no such file\n" in reasons


def test_workers_may_share_nothing_but_a_bucket(source, tmp_path, monkeypatch):
    bucket = tmp_path / "bucket"
    monkeypatch.setattr(storage, "_spec", lambda *_: {"driver": "file", "path": f"{bucket}/"})
    monkeypatch.setenv("OSTEOJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Guard, "run", in_this_process)
    shutil.copytree(source, bucket / "raw")
    flags = [
        *("--config.denoise.backend=none", "--config.image_size=64", "--config.quarantine.max_fraction=0.2"),
        *("--config.audit.shortcuts=False", "--config.workers=0", "--config.audit.near_duplicates=False"),
    ]
    assert command(["prep", f"--source={source}", f"--out={tmp_path / 'local'}", *flags]) == 0
    read = []
    store_read = storage.Store.read
    monkeypatch.setattr(storage.Store, "read", lambda self, name: read.append(name) or store_read(self, name))
    places = ["--source=gs://bones/raw", "--out=gs://bones/data", "--work=gs://bones/work"]
    assert command(["prep", *places, "--runner=beam", *HERE, *flags]) == 0
    assert not differing(tmp_path / "local", storage.localise("gs://bones/data"))
    # The workers took the files from the bucket, and handed over through it.
    assert {"00.png", "job", "gathered", "plan", "train-00000"} <= {name.rpartition("/")[2] for name in read}
    # Of the work nothing stays but the cache: the job holds the key of the patients' pseudonyms.
    assert list((bucket / "work" / "cache").glob("*.npz"))
    assert not [p for p in (bucket / "work").rglob("*") if p.is_file() and p.parent.name != "cache"]


def test_workers_find_what_is_named_from_another_folder(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = []

    def seen(job, shared, *options):
        jobs.append((shared, shared.job))
        raise UserError("enough")

    monkeypatch.setattr("data_prep.beam.pipeline._run", seen)
    with pytest.raises(UserError, match="enough"):
        prepare("source", Path("out"), settings(), beam_runner(HERE, "work"))
    ((shared, job),) = jobs
    places = (shared.cache, shared.run, job.listed.root, job.workdir.folder)
    assert all(Path(place).is_absolute() for place in places)
    assert not Path(shared.run).exists()


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([Failed("odd")], Failed("odd")),
        ([WorkerDied(), Failed("odd")], Failed("odd")),  # killed from outside
        ([WorkerDied(), WorkerDied(), Failed("odd")], WorkerDied),
        ([TookTooLong(), Failed("odd")], TookTooLong),
    ],
)
def test_a_worker_that_dies_is_given_one_more_try(answers, outcome, monkeypatch):
    class Job:
        looks_at_images = True
        settings = settings

        def task(self, index, cache):
            return index, cache

    class Scripted:
        def run(self, function, task, seconds):
            assert task == (3, "cache")
            return answers.pop(0)

    Job.settings.limits = type("Limits", (), {"seconds": 5})
    monkeypatch.setattr(Shared, "job", Job())
    found = prepare_file(Shared("cache", "run"), Scripted(), 3)
    assert found == outcome if isinstance(outcome, Failed) else isinstance(found, outcome)


def test_what_a_stage_deals_out_is_the_same_when_it_is_computed_again(tmp_path, monkeypatch):
    """Else an element whose part of a shuffle is lost with a worker comes twice, or never."""
    group = beam.GroupByKey

    class Recorded(beam.PTransform):
        def expand(self, keyed):
            return (
                keyed | beam.Map(lambda pair: (tmp_path / str(pair[0])).touch() or pair) | "group" >> group()
            )

    monkeypatch.setattr("data_prep.beam.pipeline.beam.GroupByKey", Recorded)
    for _ in range(2):
        with beam.Pipeline(runner="DirectRunner") as pipeline:
            pipeline | beam.Create(range(20)) | _Spread(lambda number: 7 * number)
    assert {int(path.name) for path in tmp_path.iterdir()} == {7 * number for number in range(20)}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--beam.runner=Nope"], "--beam.runner=Nope: Unexpected pipeline runner"),
        (["--beam.runner=no.such.Runner"], "No module named 'no'"),
        (["--beam.runner=apache_beam.Nope"], "--beam.runner=apache_beam.Nope"),
        (["--beam.nope=3"], "Beam has no option --beam.nope=3"),
        (["--beam.direct_num_workers=many"], "argument --beam.direct_num_workers: invalid int value"),
        (["--beam."], "Beam has no option --beam."),
    ],
)
def test_options_that_are_none_of_beams(words, told):
    with pytest.raises(UserError) as error:
        read_options(words)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_what_the_user_can_mend_comes_through_the_runner(source, tmp_path, monkeypatch):
    monkeypatch.setattr(Guard, "run", in_this_process)
    with pytest.raises(UserError, match=r"stopped: 3 of 22 files .*empty\.dcm.*allows fewer"):
        prepare(source, tmp_path / "out", settings(quarantine__max_fraction=0.1), beam_runner(HERE, None))
    listed = (tmp_path / "out.partial" / "quarantine.csv").read_text()
    assert "poison.png" in listed and not (tmp_path / "out").exists()
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    (nothing / "labels.csv").write_text("file,label\na.png,nobody\n")
    with pytest.raises(UserError, match="no image is left to prepare"):
        prepare(nothing, tmp_path / "out2", settings(quarantine__max_fraction=1.0), beam_runner(HERE, None))
    # Of what a stage on a worker finds, and of a runner that fails.
    config = settings(quarantine__max_fraction=0.2, audit__shortcuts=False, audit__near_duplicates=False)
    with monkeypatch.context() as patch:

        def refuse(*arguments):
            raise UserError("the given splits leak: a and b")

        patch.setattr("data_prep.beam.stages.make_plan", refuse)
        with pytest.raises(UserError, match=r"^the given splits leak: a and b$"):
            prepare(source, tmp_path / "out", config, beam_runner(HERE, None))
    with pytest.raises(UserError, match=r"the Beam runner failed \(.*job_endpoint.*finished images are kept"):
        prepare(source, tmp_path / "out", config, beam_runner(["--beam.runner=PortableRunner"], None))
    with pytest.raises(UserError, match="holds an accelerator for one process"):
        prepare(source, tmp_path / "out", settings(denoise__backend="jax"), beam_runner(HERE, None))


def test_flags_of_beam_are_of_beam_alone(source, tmp_path, capsys):
    base = ["prep", f"--source={source}", f"--out={tmp_path / 'out'}"]
    for word in ("--beam.runner=DirectRunner", "--work=/tmp"):
        assert command([*base, word]) == 2
        assert "is of --runner=beam; give that too" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command(["audit", f"--source={source}", f"--out={tmp_path / 'out'}", "--beam.runner=DirectRunner"])
    assert "unknown argument --beam.runner=DirectRunner" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_beam_one_sentence_says_what_to_install(source, tmp_path):
    code = (
        "import sys; sys.modules['apache_beam'] = None; from osteojax.cli.main import run; "
        f"sys.exit(run(['prep', '--source={source}', '--out={tmp_path / 'out'}', '--runner=beam']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "pip install 'osteojax[beam]'" in done.stderr
