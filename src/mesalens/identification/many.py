"""Identification of many models on a cluster, each by one worker."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from mesalens import kinds, random
from mesalens.checks import InputError
from mesalens.execution import Job, Place, State, Unit, connected
from mesalens.tasks import Task


def on_cluster(
    models: Sequence[Any],
    task: Task,
    key: Key[Array, ""],
    options: Mapping[str, Any],
    cluster: Any,
    progress: Callable[[str, float], object],
) -> list[Any]:
    """The identification of each model, by a worker of a cluster.

    Args:
        models: Models as for `identify`.
        task: The distribution of prompts.
        key: The key of all random numbers.
        options: Other arguments of `identify`.
        cluster: As in `mesalens.execution.connected`.
        progress: Called with what is being done, and the share of the work that is done.
    """
    for model in models:
        if isinstance(model, str):
            kinds.load(model)  # so that its file is sent to the workers
    drawn = random.generator_of(key), np.asarray(jax.random.key_data(key))

    def report(state: State) -> None:
        words = f"{state.done} of {len(models)} models identified, {state.workers} workers"
        progress(words + (f", {state.lost} lost and rerun" * bool(state.lost)), state.share)

    with tempfile.TemporaryDirectory() as folder:

        def job(place: int, model: Any) -> Job:
            arguments = model, task, drawn, dict(options), (place, len(models))
            unit = Unit(of_one, lambda: arguments, Path(folder), programs="identify")
            words = f"model {place + 1} of {len(models)}"
            return Job(words, lambda found: found, cost=1.0, unit=unit)

        jobs = [job(place, model) for place, model in enumerate(models)]
        with connected(cluster, say=lambda line: progress(line, 0.0)) as where:
            where.run(jobs, report=report)
    # The `repr` of the local task is shorter: a pickled one shows its defaults too
    return [
        dataclasses.replace(each.result, about={**each.result.about, "task": task}) for each in jobs
    ]


def of_one(
    place: Place,
    model: Any,
    task: Task,
    drawn: tuple[Any, np.ndarray],
    options: Mapping[str, Any],
    which: tuple[int, int],
) -> Any:
    """The identification of one model; an error says which one it is."""
    from mesalens.identification._identify import identify

    (generator, numbers), (number, many) = drawn, which
    kind = jax.random.key_impl(random.key(0, generator))
    key = jax.random.wrap_key_data(jnp.asarray(numbers), impl=kind)
    said = {"progress": lambda words, share: place.report(share), "say": place.say}
    try:
        return identify(model, task, key=key, **said, **options)
    except InputError as error:
        if many == 1:
            raise
        raise InputError(f"model {number + 1} of {many}: {error}") from error
