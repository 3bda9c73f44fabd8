"""`mesalens identify`."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import psutil
import pydantic

from mesalens import kinds, random
from mesalens.checks import InputError
from mesalens.cli.interruption import StoppedError, handled, leave, stoppable
from mesalens.cli.options import POSITIONAL, WORDS, Command, Folder, named, pairs
from mesalens.cli.output import print_json
from mesalens.files import require_new
from mesalens.identification import identify
from mesalens.identification.procedure import ProcedureIdentification
from mesalens.kinds import Member, Settings
from mesalens.manifest import read_manifest
from mesalens.names import SHORT
from mesalens.progress import ProgressReport
from mesalens.training import load_run

NONE: dict[str, Any] = {}

DIFFERENT = 1.01
"""Losses of models of one training differ if their ratio is larger."""

CONSTANTS = {"true": True, "false": False, "none": None}


def plain_values(words: Any) -> Any:
    """Parameters from words such as `n_neighbors=3`; see `plain_value`."""
    settings = pairs(words)
    if not isinstance(settings, dict):
        return settings
    return {name: plain_value(value) for name, value in settings.items()}


def plain_value(word: Any) -> Any:
    """The value of a word: a number, true, false, none, or the word itself; never code."""
    if not isinstance(word, str) or word.lower() in CONSTANTS:
        return CONSTANTS[word.lower()] if isinstance(word, str) else word
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(word)
    return word


class Identify(Command):
    """Finds out which algorithm a learner runs, or that it runs none of the known ones.

      mesalens identify runs/d5
      mesalens identify my_model.py:predict --dim 5 --noise-variance 0.25
      mesalens identify sklearn.linear_model:Ridge --set alpha=2 --dim 5
      mesalens identify my_gpt2.py:model --layout interleaved --dim 5

    LEARNER is a folder that `mesalens train` wrote (if it has several seeds, the training procedure
    is identified), or file.py:NAME or module:NAME, where NAME is one of

      a function of NumPy batches (B prompts, n examples, d inputs, m outputs)
        (xs [B, n, d], ys [B, n, m], queries [B, d]) -> [B, m]
      a scikit-learn estimator, or its class; it is fitted on each context
      a torch.nn.Module in evaluation mode, or a function that returns one
      a function of one mesalens.Prompt, written in JAX

    Loading a .py file runs it: give only files that you trust.
    """

    learner: Annotated[str, pydantic.BeforeValidator(named), POSITIONAL]
    """folder that `mesalens train` wrote, or file.py:NAME, or module:NAME"""
    adapter: str | None = None
    """how to call the learner: numpy, jax, sklearn or torch; by default detected"""
    layout: str | None = None
    """how a torch.nn.Module reads prompts: interleaved, joint, or file.py:NAME of a function that
    turns tensors xs, ys and queries into tokens; by default interleaved"""
    set_: Annotated[dict[str, Any], pydantic.BeforeValidator(plain_values), WORDS] = NONE
    """parameters of an estimator, a class or a function, as NAME=VALUE, where VALUE is a number,
    true, false, none or a word"""
    task: Annotated[Any, Member("task")] = "regression"
    """distribution of prompts; for a folder it is the task of the training"""
    readouts: str | None = None
    """file.py:NAME of a function (xs, ys, queries) -> [B, layers, m] that returns the predictions
    after each layer; the spectral filter is then measured after each layer"""
    margin: float = 0.01
    """largest distance at which an algorithm counts as equivalent, as a share of the variance of
    predictions that the context explains"""
    level: float = 0.95
    """confidence level of the intervals"""
    prompts: int = 8192
    """largest number of prompts in each regime: 1024, 2048, 4096, …; they are drawn until the
    answer is decided, so 1024 saves time only where it would not be decided so soon"""
    seed: int = 0
    """seed of all random numbers"""
    out: Folder | None = None
    """new folder for the page, the figure and the numbers"""
    cluster: str | None = None
    """Dask cluster to compute on: local:4, tcp://host:8786 or a scheduler file"""
    device: str | None = None
    """device to compute on: cpu, gpu, …; by default JAX's choice"""

    def __call__(self) -> int:
        """Identifies the learner and prints the answer."""
        if self.out is not None:
            require_new(self.out)
            import matplotlib  # takes a third of a second, and only the page needs it

            matplotlib.use("agg")
        try:
            answer = self._answer()
        except StoppedError as stop:
            print("mesalens: interrupted; the work on the cluster was stopped.", file=sys.stderr)
            return stop.exit_code
        if self.out is not None:
            answer.save(self.out)
        if self.json_:
            print_json(answer.content() | ({} if self.out is None else {"out": str(self.out)}))
        else:
            print(answer)
            if isinstance(answer, ProcedureIdentification) and (hint := self._hint(answer)):
                print(hint)
            if self.out is not None:
                print(f"The page: {self.out / 'index.html'}")
        return 0

    def _answer(self) -> Any:
        with contextlib.ExitStack() as stack:
            # A cluster has to be told to stop; local work ends at once
            check = stack.enter_context(stoppable()) if self.cluster is not None else lambda: None
            progress = stack.enter_context(ProgressReport(check))
            if self.cluster is None:
                stack.enter_context(handled(_leaving(progress)))
            report = progress.stages()
            report("loading the learner", 0.0)
            model, task, adapter = self._subject()
            answer = identify(
                model,
                task,
                key=random.key(self.seed),
                margin=self.margin,
                level=self.level,
                prompts=self.prompts,
                progress=report,
                say=progress.say,
                cluster=self.cluster,
                **adapter,
            )
            report("done", 1.0)
            return answer

    def _hint(self, answer: ProcedureIdentification) -> str | None:
        """What to look at if models of one family differ, and so do their losses.

        Only exact losses are compared: those of batches differ by chance.
        """
        if answer.verdict != "named" or answer.agree or not Path(self.learner).is_dir():
            return None
        settings, training = load_run(Path(self.learner))
        losses = training.metrics.loss.isel(step=-1).values
        low, high = float(losses.min()), float(losses.max())
        if not kinds.build("objective", settings.objective).exact or high < low * DIFFERENT:
            return None
        return (
            f"  Their losses at the end are from {low:.4g} to {high:.4g}: models with a larger one "
            "may have stopped on a plateau (see theory/plateaus in the documentation); "
            f"mesalens compare {self.learner} compares them with the best step"
        )

    def _subject(self) -> tuple[Any, Any, dict[str, Any]]:
        """The model or models, the task, and how to call a model of another library."""
        if ":" in self.learner and not Path(self.learner).is_dir():
            adapter: dict[str, Any] = {"adapter": self.adapter, "layout": self.layout}
            if self.readouts is not None:
                adapter["readouts"] = kinds.load(self.readouts)
            return self.learner, self.task.build(), adapter | {"parameters": self.set_ or None}
        if Path(self.learner).is_file():
            raise InputError(
                f"{self.learner} is a file; add the name of the learner in it: {self.learner}:NAME."
            )
        if not Path(self.learner).is_dir():
            raise InputError(_no_folder(self.learner))
        own = ("task", "set_", "adapter", "layout", "readouts")
        if given := [name for name in own if name in self.model_fields_set]:
            raise InputError(
                f"{_option(self, given[0])} cannot be given for the folder {self.learner}, which "
                "has its own model and task; use it with file.py:NAME or module:NAME."
            )
        return *self._run(), {}

    def _run(self) -> tuple[Any, Any]:
        """The models of a run folder, one for each seed, or the only one; and their task."""
        folder = Path(self.learner)
        manifest = read_manifest(folder)
        if manifest is not None and manifest["kind"] not in ("run", "sweep"):
            raise InputError(
                f"{folder} holds a {manifest['kind']}, not a training; give a folder that "
                "`mesalens train` wrote."
            )
        settings, training = load_run(folder)
        if varied := [axis for axis in training.metrics.loss.dims if axis not in ("seed", "step")]:
            raise InputError(
                f"{folder} holds a sweep over {', '.join(map(str, varied))}, not a single training "
                "procedure; give a folder that `mesalens train` wrote."
            )
        models = [training.learner(seed) for seed in range(training.metrics.sizes["seed"])]
        return models[0] if len(models) == 1 else models, settings.exact_task()


def _no_folder(word: str) -> str:
    """The sentence for a word that does not name a learner, such as one with a dot for a colon."""
    module, _, name = word.rpartition(".")
    if name and _is_module(module):
        # A module inside a package has the learner in it
        meant = f"{word}:NAME" if _is_module(word) else f"{module}:{name}"
        return f"{word} is neither a folder nor FILE.py:NAME or MODULE:NAME; did you mean {meant}?"
    return (
        f"there is no folder {word}; give a folder that `mesalens train` wrote, file.py:NAME or "
        "module:NAME."
    )


def _is_module(word: str) -> bool:
    """Whether a word is a .py file, or the dotted path of a module that can be imported."""
    if word.endswith(".py"):
        return Path(word).is_file()
    if not all(part.isidentifier() for part in word.split(".")):
        return False
    try:  # the packages around a module are imported, and any of them may fail
        return importlib.util.find_spec(word) is not None
    except Exception:
        return False


def _option(settings: Settings, name: str) -> str:
    """The option that was given for a field, or for a setting in it: "--dim" for the task's."""
    path, value = name, getattr(settings, name)
    while isinstance(value, Settings):
        inside = [each for each in type(value).model_fields if each in value.model_fields_set]
        inside = [each for each in inside if each != "kind"]  # set whether or not it was given
        if not inside:
            break
        path, value = f"{path}.{inside[0]}", getattr(value, inside[0])
    short = next((each for each, full in SHORT.items() if full == path), path)
    return f"--{short.rstrip('_').replace('_', '-')}"


def _leaving(progress: ProgressReport) -> Callable[[int, FrameType | None], None]:
    """A signal handler that restores the terminal, and ends this process and its workers."""

    def handler(number: int, frame: FrameType | None) -> None:
        progress.close()
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                # joblib's tracker cleans up after the others, and then ends by itself
                if "resource_tracker" not in " ".join(child.cmdline()):
                    child.kill()
        leave(number, frame)

    return handler
