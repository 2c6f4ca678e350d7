"""What the machines of a run hand to each other: small things as elements of the pipeline, large ones through a place.

Images, descriptions, the plan and the shards are written whole, by name, where all workers see them, so that a stage
which is run again finds or writes the same, and a run that is started again goes on from the images that are there.
"""

import contextlib
import dataclasses
import functools
import pickle
import shutil
from collections.abc import Iterator
from typing import Any

from data_prep.runner import Job
from osteojax import storage
from osteojax.errors import UserError
from osteojax.place import open_place

_REFUSED = "refused"


@dataclasses.dataclass(frozen=True)
class Shared:
    """Where they hand it over.

    Attributes:
        cache: place of the images and their descriptions, kept from run to run.
        run: place of the rest, of one run alone.
    """

    cache: str
    run: str

    def put(self, name: str, thing: object) -> None:
        """Leaves something for another stage. Pickled, as Beam itself ships what runs on its workers."""
        open_place(self.run).write(name, pickle.dumps(thing))

    def get(self, name: str) -> Any:
        """What a stage left; None where none has."""
        content = open_place(self.run).read(name)
        return None if content is None else pickle.loads(content)

    @property
    def job(self) -> Job:
        """What is to be prepared; read once a process."""
        return _job(self)

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Hands a user's mistake to the process that started the run: runners pass on no more than its text."""
        try:
            yield
        except UserError as error:
            open_place(self.run).write(_REFUSED, str(error).encode())
            raise

    def clear(self) -> None:
        """Removes what was of this run alone: the job among it, and with it the key of the patients' pseudonyms."""
        if not storage.is_remote(self.run):
            shutil.rmtree(self.run, ignore_errors=True)
            return
        store = storage.Store(self.run)
        for name in store.names():
            store.write(name, None)

    def refusal(self) -> str | None:
        """The mistake that ended the run."""
        told = open_place(self.run).read(_REFUSED)
        return None if told is None else told.decode()


@functools.lru_cache(maxsize=1)
def _job(shared: Shared) -> Job:
    found = shared.get("job")
    if found is None:
        raise UserError(
            f"the workers do not see {shared.run}: give --work, a folder that all of them share or an address on an "
            "object store"
        )
    return found
