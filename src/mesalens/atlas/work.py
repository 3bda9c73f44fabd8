"""The units of work of a study, for this or another machine: trainings, and what follows from them.

Each is a function of a `Place`, whose folder is a store, and of arguments that can be pickled.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mesalens.atlas.results import finished, save, together
from mesalens.atlas.study import Lab, Study, Values
from mesalens.atlas.units import Units
from mesalens.checks import InputError
from mesalens.execution.jobs import BusyError, Place
from mesalens.store import Store, digest
from mesalens.training.checkpoint import InUseError

SECOND = 1e6
"""About one second of work, in the units of `Units.cost`, so that the time left is about right."""


class Made(NamedTuple):
    """The address of a result, whether it was stored before, and the seconds that it took."""

    address: str
    taken: bool
    seconds: float


@dataclass(eq=False)
class Kept:
    """A result in a store, which is read when it is needed, and pickled as its address.

    Args:
        address: Its address.
        load: Reads it from its folder.
    """

    address: str
    load: Callable[[Path], Any]
    _value: list[Any] = field(default_factory=list)

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, (self.address, self.load)

    def value(self, store: Store) -> Any:
        """The result, read once."""
        if not self._value:
            entry = store.get(self.address)
            if entry is None:
                raise InputError(f"{store.folder} no longer has {self.address[:12]}; run it again.")
            self._value = [self.load(entry.folder)]
        return self._value[0]


Needs = Mapping[str, list[Kept | Mapping[Any, Kept]]]
"""What a function needs, by argument: for each seed a result, or several by label."""


def train(
    place: Place, units: Units, seed: int, study: str, fresh: bool, known: frozenset[str]
) -> Made:
    """Trains one seed of an experiment, unless its result is stored here or by the caller.

    Args:
        place: Where to work; its folder is a store.
        units: The experiment.
        seed: The seed.
        study: The name of the study.
        fresh: Whether to train even if the result is stored.
        known: The addresses in the store of the caller, if that is another one.
    """
    store, steps = Store(place.folder, place.say), units.experiment.steps
    started = time.monotonic()
    with place.compiling():  # the address depends on the program of the initial weights
        address = units.address(seed)
    if not fresh and (store.get(address) is not None or (place.away and address in known)):
        return Made(address, True, time.monotonic() - started)
    with place.compiling():
        units.compile(seed, place.say)
    place.needs(units.bytes)
    if fresh:
        store.forget_unfinished(address)
    try:
        training = units.train(
            seed,
            progress=lambda step: place.report(step / steps),
            say=place.say,
            checkpoint=store.unfinished(address),
        )
    except InUseError:
        raise BusyError from None
    except InputError:
        # Another process that has just finished it deletes the states
        if not fresh and store.get(address) is not None:
            raise BusyError from None
        raise
    about = {
        "study": study,
        "experiment": units.name,
        "seed": seed,
        "study_seed": units.study_seed,
        "settings": units.experiment.describe(),
        "ending": str(training.metrics.ending.values[0]),
        "steps_taken": int(training.metrics.steps_taken.values[0]),
        "seconds": round(time.monotonic() - started, 1),
    }
    if fresh and (old := store.get(address)):
        store.remove(old)
    store.keep(address, "unit", lambda folder: units.save(training, folder), about)
    store.forget_unfinished(address)
    return Made(address, False, time.monotonic() - started)


def compute(
    place: Place,
    study: Study,
    identity: str,
    seed: int | None,
    needs: Needs,
    values: Values,
    study_seed: int,
    name: str,
) -> Made:
    """Computes a measurement, a claim's evidence, a figure or a remark.

    Args:
        place: Where to work; its folder is a store, which has what is needed.
        study: The study.
        identity: The identity of the function.
        seed: The seed; None for a function of all seeds.
        needs: The results that the function needs.
        values: The settings of the study.
        study_seed: The seed of all random numbers.
        name: A digest of what is computed.
    """
    store, node = Store(place.folder, place.say), study.node(identity)
    started = time.monotonic()
    lab = Lab(values, study_seed, identity, seed)
    loaded = {name: [_values(kept, store) for kept in each] for name, each in needs.items()}
    results = {n: each[0] if seed is not None else together(each) for n, each in loaded.items()}
    try:
        result = finished(node, lab, results)
    except InputError as error:
        raise InputError(f"{study.name}/{node.name}: {error}") from None
    seconds = time.monotonic() - started
    about = {"study": study.name, "result": node.name, "seed": seed}
    about |= {"study_seed": study_seed, "settings": dict(values), "seconds": round(seconds, 1)}
    kind = type(node).__name__.lower().removesuffix("node")
    address = digest([name, datetime.now(UTC).isoformat()])
    store.keep(address, kind, lambda folder: save(result, folder), about)
    return Made(address, False, seconds)


def files_of(store: Store, needs: Iterable[Kept], states: str | None = None) -> dict[str, bytes]:
    """The files of results, and of the states of a training, by their paths in a store."""
    folders = [store.folder / "results" / kept.address[:2] / kept.address for kept in needs]
    folders += [] if states is None else [store.unfinished(states)]
    files = [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
    return {
        file.relative_to(store.folder).as_posix(): file.read_bytes()
        for file in (store.folder / "store.json", *files)
        if file.suffix != ".lock"
    }


def leaves(kept: Any) -> list[Kept]:
    """All results in a structure of needs."""
    if isinstance(kept, Kept):
        return [kept]
    each = kept.values() if isinstance(kept, Mapping) else kept
    return [leaf for one in each for leaf in leaves(one)]


def keep_files(store: Store, files: Mapping[str, bytes], name: str | None = None) -> None:
    """Stores results and states that came from a store on another machine.

    If the states are of unfinished work, the name points to their address too, which only the
    machine that did the work knows.
    """
    folders: dict[Path, dict[str, bytes]] = {}
    for path, content in files.items():
        parts = Path(path).parts
        if len(parts) == 4 and parts[0] == "results":
            folders.setdefault(Path(parts[2]), {})[parts[3]] = content
        elif len(parts) == 3 and parts[0] == "unfinished":
            store.keep_state(parts[1], parts[2], content)
            if name is not None:
                store.name(name, Path(parts[1]).name)
    for address, found in folders.items():
        store.adopt(address.name, found)


def _values(kept: Kept | Mapping[Any, Kept], store: Store) -> Any:
    if isinstance(kept, Kept):
        return kept.value(store)
    return {label: each.value(store) for label, each in kept.items()}
