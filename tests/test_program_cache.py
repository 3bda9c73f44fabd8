"""Compiled programs on disk: a second process takes them from there, with the same bits."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from mesalens import InputError, program_cache
from mesalens.program_cache import (
    Programs,
    count_elsewhere,
    counted,
    keep_programs,
    keep_programs_if_possible,
    often,
    seldom,
)

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_compilation_cache_max_size",
)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """JAX that knows of no folder, and a user whose cache is in `tmp_path / "user"`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.delenv("MESALENS_PROGRAMS", raising=False)
    monkeypatch.setattr(program_cache, "LEAST_SECONDS", 0.0)
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield tmp_path / "user" / "mesalens" / "programs"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compiled(number):
    """Compiles a program of its own for each number."""
    return float(jax.jit(lambda x: jnp.sin(x) * number)(2.0))


def programs(folder):
    return sorted(path.name for path in folder.glob("*-cache")) if folder.exists() else []


def test_programs_are_kept_in_the_folder_of_the_user_or_in_one_that_is_given(nowhere, tmp_path):
    compiled(1.5)  # before, so that JAX has made up its mind that there is no folder
    keep_programs_if_possible()
    assert jax.config.jax_compilation_cache_dir == str(nowhere)
    compiled(2.5)
    kept = programs(nowhere)
    assert kept
    assert keep_programs(tmp_path / "other") == tmp_path / "other"
    compiled(3.5)
    assert programs(tmp_path / "other") and programs(nowhere) == kept
    assert jax.config.jax_compilation_cache_max_size == program_cache.MOST_BYTES


def test_nothing_is_kept_where_that_is_turned_off(nowhere, monkeypatch):
    monkeypatch.setenv("MESALENS_PROGRAMS", "off")
    keep_programs_if_possible()
    assert jax.config.jax_compilation_cache_dir is None
    compiled(4.5)
    assert not nowhere.parent.exists()


def test_a_folder_that_jax_was_told_of_stays(nowhere, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert keep_programs() == tmp_path / "mine"
    compiled(5.5)
    assert programs(tmp_path / "mine") and not nowhere.exists()


def test_a_folder_that_cannot_be_written_gets_a_sentence_or_is_done_without(
    nowhere, tmp_path, capfd
):
    (tmp_path / "user").write_text("a file")
    keep_programs_if_possible()
    assert jax.config.jax_compilation_cache_dir is None
    assert capfd.readouterr() == ("", "")
    with pytest.raises(InputError, match="user/mesalens/programs cannot be written"):
        keep_programs()
    with pytest.raises(InputError, match="cannot be written"):
        keep_programs(tmp_path / "user")
    assert jax.config.jax_compilation_cache_dir is None
    compiled(6.5)


def test_a_damaged_program_is_compiled_anew_with_a_warning_of_jax(nowhere):
    keep_programs_if_possible()
    first = compiled(7.5)
    kept = programs(nowhere)
    assert compiled(7.5) == first and programs(nowhere) == kept
    for name in kept:
        os.truncate(nowhere / name, 50)
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
        assert compiled(7.5) == first


def numbers(programs):
    return programs.compiled, programs.loaded


def test_compiled_and_loaded_programs_are_counted(nowhere):
    keep_programs_if_possible()
    with counted() as first:
        compiled(8.5)
        compiled(9.5)
    with counted() as again:
        compiled(8.5)
        assert numbers(again) == (0, 1)
        compiled(10.5)
    compiled(11.5)  # after the contexts
    assert numbers(first) == (2, 0) and first.seconds > 0
    assert numbers(again) == (1, 1) and 0 < again.seconds < first.seconds + again.seconds


def test_programs_of_other_threads_and_processes_are_counted_unless_one_thread_is_asked_for():
    with ThreadPoolExecutor(1) as pool, counted() as everywhere, counted(thread=True) as here:
        pool.submit(compiled, 12.5).result()
        compiled(13.5)
        count_elsewhere(Programs(5, 2.0, 3))
    count_elsewhere(Programs(1, 1.0, 1))
    assert numbers(everywhere) == (7, 3) and everywhere.seconds > here.seconds + 2
    assert numbers(here) == (1, 0)


def test_the_words_of_programs_leave_out_what_is_not_there():
    assert Programs(143, 74.4, 12).words() == (
        "compiled 143 programs in 74 s, loaded 12 programs from the cache"
    )
    assert Programs(1, 0.523).words() == "compiled 1 program in 0.52 s"
    assert Programs(loaded=1).words() == "loaded 1 program from the cache"
    assert Programs().words() == ""


OF_ONE_PROCESS = """
import json
from collections import Counter
import jax
from jax import monitoring

events = Counter()
monitoring.register_event_listener(lambda event, **_: events.update([event.rpartition("/")[2]]))

import numpy as np, optax
from mesalens import GradientDescent, program_cache, random
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask
from mesalens.training import train

program_cache.LEAST_SECONDS = 0.0  # what takes long is chance
program_cache.keep_programs_if_possible()
training = train(
    lambda key: GradientDescent(0.1 + 0.1 * jax.random.uniform(key)),
    RegressionTask(Gaussian(2), LinearFunctions(2), context_length=4),
    optax.adam(1e-2), steps=10, batch_size=16, every=5, seeds=2, key=random.key(0),
)
print(json.dumps({
    "hits": events["cache_hits"],
    "misses": events["cache_misses"],
    "bits": np.asarray(training.learners.step_size).tobytes().hex() + training.metrics.loss.values.tobytes().hex(),
}))
"""


def in_another_process(**environment):
    kept_off = ("MESALENS_PROGRAMS", "JAX_COMPILATION_CACHE_DIR")
    inherited = {name: value for name, value in os.environ.items() if name not in kept_off}
    answer = subprocess.run(
        [sys.executable, "-c", OF_ONE_PROCESS],
        env=inherited | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.slow
def test_a_second_process_compiles_nothing_again(tmp_path):
    folder = tmp_path / "mesalens" / "programs"
    first = in_another_process(XDG_CACHE_HOME=tmp_path)
    kept = programs(folder)
    assert first["hits"] == 0 and first["misses"] == len(kept) > 0
    # ... and where JAX is told of the folder it is that one
    second = in_another_process(XDG_CACHE_HOME=tmp_path / "other", JAX_COMPILATION_CACHE_DIR=folder)
    assert (second["hits"], second["misses"]) == (len(kept), 0)
    assert programs(folder) == kept and not (tmp_path / "other").exists()
    assert second["bits"] == first["bits"]


@pytest.mark.parametrize("options", [seldom, often])
def test_options_leave_what_the_environment_sets(options, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_prefer_vector_width=256")
    assert "xla_cpu_prefer_vector_width" not in options()
    assert options()["xla_backend_optimization_level"] <= 1
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    assert "xla_backend_optimization_level" not in options()
