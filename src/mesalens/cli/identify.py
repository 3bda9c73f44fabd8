"""`mesalens identify`."""

from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import pydantic

from mesalens import random
from mesalens.checks import InputError
from mesalens.cli.options import POSITIONAL, WORDS, Command, Folder
from mesalens.cli.output import print_json
from mesalens.cli.reproduce import pairs
from mesalens.files import require_new
from mesalens.identification import identify
from mesalens.kinds import Member
from mesalens.progress import ProgressReport
from mesalens.training import load_run

NONE: dict[str, Any] = {}


class Identify(Command):
    """Says which algorithm a learner runs, with intervals, or that none of the known ones fits.

    The learner is a folder that `mesalens train` wrote, or file.py:NAME or module:NAME of a
    function of NumPy batches (xs [B, n, d], ys [B, n, m], queries [B, d]) -> [B, m], of a
    scikit-learn estimator, or of a torch.nn.Module. Loading a .py file runs it.
    """

    learner: Annotated[str, POSITIONAL]
    """a folder that `mesalens train` wrote, or file.py:NAME, or module:NAME"""
    adapter: str | None = None
    """numpy, jax, sklearn or torch, where the object does not tell"""
    layout: str = "interleaved"
    """how a torch.nn.Module reads prompts: joint, interleaved, or file.py:NAME of an encoder"""
    set_: Annotated[dict[str, Any], pydantic.BeforeValidator(pairs), WORDS] = NONE
    """parameters of an estimator or a class, as n_neighbors=3; plain values"""
    task: Annotated[Any, Member("task")] = "regression"
    """the task (of a folder, the one it was trained on)"""
    margin: float = 0.01
    """the distance below which an algorithm is the same, of what the context explains"""
    level: float = 0.95
    """one minus the chance that an interval misses"""
    prompts: int = 8192
    """the most prompts to judge on in each regime"""
    seed: int = 0
    """where the prompts come from"""
    out: Folder | None = None
    """a new folder for the page, the figure and the numbers"""
    device: str | None = None
    """where to compute: cpu, gpu, … (JAX's choice by default)"""

    def __call__(self) -> int:
        """Identifies the learner and prints the answer."""
        matplotlib.use("agg")
        if self.out is not None:
            require_new(self.out)
        model, task, adapter = self._subject()
        with ProgressReport() as progress:
            bar = progress.start("identifying", 100)

            def report(words: str, share: float) -> None:
                bar(int(100 * share))

            answer = identify(
                model,
                task,
                key=random.key(self.seed),
                margin=self.margin,
                level=self.level,
                prompts=self.prompts,
                progress=report,
                **adapter,
            )
        if self.out is not None:
            answer.save(self.out)
        if self.json_:
            print_json(answer.content() | ({} if self.out is None else {"out": str(self.out)}))
        else:
            print(answer)
            if self.out is not None:
                print(f"The page: {self.out / 'index.html'}")
        return 0

    def _subject(self) -> tuple[Any, Any, dict[str, Any]]:
        """The model or models, the task, and how a foreign model is read."""
        if ":" not in self.learner:
            if self.model_fields_set & {"task", "set_", "adapter"}:
                raise InputError(
                    "a folder has its own task and model; give --task, --set and --adapter only "
                    "with file.py:NAME."
                )
            settings, training = load_run(Path(self.learner))
            axes = [axis for axis in training.metrics.loss.dims if axis != "step"]
            labels = [training.metrics[axis].values.tolist() for axis in axes]
            models = [
                training.learner(
                    **dict(zip(axes, [v[i] for v, i in zip(labels, at, strict=True)], strict=True))
                )
                for at in np.ndindex(*map(len, labels))
            ]
            return models[0] if len(models) == 1 else models, settings.exact_task(), {}
        adapter = {"adapter": self.adapter, "layout": self.layout, "parameters": self.set_ or None}
        return self.learner, self.task.build(), adapter
