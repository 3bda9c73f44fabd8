"""`Study`: a paper, declared as experiments, measurements and claims.

Each of these is a function; the defaults of its parameters say what it needs:

    study = Study("paper-2023", title="…", citation="…", settings={"dim": 10, …}, quick={…}, …)

    @study.experiment
    def one_layer(s):
        return Experiment(task=…, steps=s.steps, …)

    @study.measurement
    def compared(lab, trained=one_layer):
        return {"relative_risk_difference": …, "cosine": …}

    @study.claim("Section 3", within(0.01), headline=True)
    def risk(lab, compared=compared):
        '''After training, the layer's risk is that of one step of gradient descent.

        Measured: R / R_GD - 1, both on the same fresh prompts.
        '''
        return compared.relative_risk_difference

Measurements and claims are functions of one seed; figures and remarks are functions of all seeds. A
claim has the name of its function, with hyphens, and its function returns the evidence.
"""

import ast
import functools
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Key

from mesalens import random
from mesalens._citation import study_reference
from mesalens.atlas.criterion import Criterion
from mesalens.checks import InputError, one_of
from mesalens.display import Described, Summary

FILE_MODULE = "mesalens_study_"
"""The prefix of the names of modules that are files of users."""

_ATLAS = __name__.rpartition(".")[0]
_STUDIES = Path(__file__).resolve().parents[1] / "studies"

MustFail = Mapping[str, Any] | Literal["untrained"] | None


class UnknownSettingError(InputError, AttributeError):
    """A study reads a setting that it does not have."""


class Values(dict[str, Any]):
    """The settings of a study for a budget; `s.steps` is `s["steps"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[one_of("setting of the study", name, self)]
        except InputError as error:
            raise UnknownSettingError(str(error)) from None

    def of(self, part: str) -> "Values":
        """The settings for a part: `softmax_steps` replaces `steps` in the part "softmax"."""
        own = {n.removeprefix(f"{part}_"): v for n, v in self.items() if n.startswith(f"{part}_")}
        return Values(self | own)


@dataclass(frozen=True)
class Lab:
    """What a function of a study gets as its first argument: settings, seed and random keys.

    Attributes:
        settings: The settings of the study; `lab.settings.steps` is one of them.
        study_seed: The seed of all random numbers.
        purpose: The identity of the function, on which its keys depend.
        seed: The number of the seed that is measured; None in a function of all seeds.
    """

    settings: Values
    study_seed: int
    purpose: str
    seed: int | None = None

    def key(self, *words: str) -> Key[Array, ""]:
        """A random key, different for each function, seed and choice of words.

        Args:
            *words: What the key is for, as in `lab.key("prompts")`.
        """
        return random.measurement_key(self.study_seed, *self._digest(words))

    def rng(self, *words: str) -> np.random.Generator:
        """A NumPy generator, different for each function, seed and choice of words.

        Args:
            *words: What the generator is for.
        """
        return np.random.default_rng([self.study_seed, *self._digest(words)])

    def _digest(self, words: tuple[str, ...]) -> list[int]:
        text = repr((self.purpose, self.seed, words))
        return np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], np.uint32).tolist()


@dataclass(frozen=True, eq=False)
class Node:
    """A function of a study, with other arguments in place of some of its defaults.

    Nodes with the same function and arguments have the same `identity`, and are computed once.
    """

    function: Callable[..., Any]
    changes: Mapping[str, Any] = field(default_factory=dict)

    def given(self, **arguments: Any) -> Any:
        """The same function with other arguments: nodes, functions or values."""
        known = list(inspect.signature(self.function).parameters)[1:]
        for name in arguments:
            one_of(f"parameter of {self.function.__name__}", name, known)
        return replace(self, changes={**self.changes, **arguments})

    @property
    def untrained(self) -> Any:
        """The same function for untrained experiments (except those in tuples and mappings)."""
        nodes = {n: v.untrained for n, v in self.arguments.items() if isinstance(v, Node)}
        return self.given(**nodes)

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """All arguments except the first, by name.

        Raises:
            ValueError: if one has no value.
        """
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        values = {p.name: self.changes.get(p.name, p.default) for p in parameters}
        for name, value in values.items():
            if value is inspect.Parameter.empty:
                raise InputError(f"{place_of(self.function)}: {name} needs a default or a value.")
        return values

    @functools.cached_property
    def needs(self) -> dict[str, "Node"]:
        """The arguments that are nodes, by name; members of tuples and mappings as "name[0]"."""
        found: dict[str, Node] = {}
        for name, value in self.arguments.items():
            for place, each in _each(name, value):
                if isinstance(each, Node):
                    found[place] = each
        return found

    def call(self, first: Any, results: Mapping[str, Any]) -> Any:
        """The function's value, with results in place of its nodes."""

        def value_of(name: str, value: Any) -> Any:
            values = [results.get(place, each) for place, each in _each(name, value)]
            if isinstance(value, Mapping):
                return dict(zip(value, values, strict=True))
            return tuple(values) if isinstance(value, tuple) else values[0]

        return self.function(first, **{n: value_of(n, v) for n, v in self.arguments.items()})

    @functools.cached_property
    def identity(self) -> str:
        """The function and its arguments as text; random keys depend on it."""
        arguments = ", ".join(f"{name}={_words(v)}" for name, v in self.arguments.items())
        return f"{_full_name(self.function)}({arguments})"

    @functools.cached_property
    def name(self) -> str:
        """The function's name with hyphens, and the arguments that differ from the defaults."""
        return " ".join([_name(self.function), *(_given(n, v) for n, v in self.changes.items())])

    @functools.cached_property
    def closure(self) -> dict[str, "Node"]:
        """The node and all that it needs, directly or not, by identity."""
        found: dict[str, Node] = {self.identity: self}
        for node in self.needs.values():
            found |= node.closure
        return found


@dataclass(frozen=True, eq=False)
class ExperimentNode(Node):
    """A function of the settings that returns an `Experiment`, or a mapping of labels to them."""

    fields: Mapping[str, Any] = field(default_factory=dict)

    def but(self, **fields: Any) -> Any:
        """The same experiment with other values of some fields of `Experiment`."""
        return replace(self, fields={**self.fields, **fields})

    @property
    def untrained(self) -> Any:
        """The same experiment with a single training step; every seed counts."""
        return self.but(steps=1, counts=None, optimiser="adam")

    def call(self, first: Any, results: Mapping[str, Any]) -> Any:
        made = super().call(first, results)
        several = made if isinstance(made, Mapping) else {None: made}
        several = {label: replace(each, **self.fields) for label, each in several.items()}
        try:
            for each in several.values():
                each.require_settings()
        except InputError as error:
            where = f"{place_of(self.function)}: the experiment {self.name}"
            raise InputError(f"{where}: {error}") from None
        return several if isinstance(made, Mapping) else several[None]

    @functools.cached_property
    def identity(self) -> str:
        return super().identity + "".join(f" {n}={_words(v)}" for n, v in self.fields.items())

    @functools.cached_property
    def name(self) -> str:
        return super().name + "".join(f" {n}={_name(v)}" for n, v in self.fields.items())


class Measurement(Node):
    """A function of one seed: `f(lab, …)` returns numbers or arrays by name, or a dataset."""


# `Any`, because a node, as the default of a parameter, stands for its result
def measurement(function: Callable[..., Any]) -> Any:
    """Decorator: turns a function of one seed into a measurement that several studies can use.

    The defaults of the function's parameters may be experiments or other measurements; the function
    gets their results in place of them. `given(**arguments)` of the measurement replaces defaults.

    Args:
        function: `function(lab, …)` returns numbers or arrays by name, or an `xarray.Dataset`; its
            first argument is a `Lab`.

    Returns:
        The measurement, to be used as the default of a parameter of claims and measurements.
    """
    return Measurement(function)


@dataclass(frozen=True, eq=False, repr=False)
class Claim(Described, Measurement):
    """A statement of a paper: where it is made, what is measured, and what confirms it.

    With `count_all_seeds`, seeds that the experiments do not count are counted too. `must_fail_on`
    has arguments with which the claim is false, or is "untrained" if the claim is false before
    training: a claim that cannot fail is not a check.
    """

    place: str = ""
    criterion: Criterion = None  # pyright: ignore
    headline: bool = False
    count_all_seeds: bool = False
    must_fail_on: MustFail = None
    label: str | None = None
    words: Mapping[str, str] = field(default_factory=dict)

    def _summary(self) -> Summary:
        rows = {"statement": self.statement, "measured": self.estimator, "place": self.place}
        return Summary(f"{self.name}: {self.criterion.words}", rows)

    @functools.cached_property
    def name(self) -> str:
        return self.label or self.function.__name__.replace("_", "-")

    @functools.cached_property
    def statement(self) -> str:
        """What is claimed: the docstring before "Measured:"."""
        return self._text[0]

    @functools.cached_property
    def estimator(self) -> str:
        """What is measured: the docstring after "Measured:"."""
        return self._text[1]

    @functools.cached_property
    def _text(self) -> tuple[str, str]:
        text = inspect.getdoc(self.function) or ""
        statement, _, estimator = text.partition("Measured:")
        if not statement.strip() or not estimator.strip():
            raise InputError(
                f"{place_of(self.function)}: the claim {self.name} needs a docstring with its "
                'statement, then "Measured:" and what is measured.'
            )
        plain = [" ".join(part.split()) for part in (statement, estimator)]
        statement, estimator = (part.format(**self.words) for part in plain)
        return statement, estimator.rstrip(".")

    def require_complete(self) -> None:
        """Raises `ValueError` if an argument has no value, or the docstring is incomplete."""
        _ = self.arguments, self.statement

    def falsified(self) -> "Claim":
        """The claim with the arguments with which it must fail."""
        if self.must_fail_on is None:
            raise InputError(f"the claim {self.name} has no must_fail_on.")
        if self.must_fail_on == "untrained":
            return self.untrained
        return self.given(**self.must_fail_on)


@dataclass(frozen=True, eq=False)
class FigureNode(Node):
    """A function of all seeds that draws a Matplotlib figure; its docstring is the caption.

    It may return `(figure, words)`, where words fill the `{…}` of the caption. `shows` names the
    claims that the figure shows.
    """

    shows: tuple[str, ...] = ()

    def caption(self, words: Mapping[str, Any]) -> str:
        """The docstring, with words filled in."""
        return " ".join((inspect.getdoc(self.function) or "").split()).format(**words)


@dataclass(frozen=True, eq=False)
class Remark(Node):
    """A function of all seeds that returns a sentence for the report."""

    shows: tuple[str, ...] = ()


@dataclass(repr=False)
class Part(Described):
    """A group of claims of a study, with figures and remarks.

    Its decorators `claim`, `figure`, `remark`, `experiment` and `measurement` declare what the
    study consists of.

    Attributes:
        study: The study.
        name: The name for commands, as in STUDY/PART.
        title: The heading in reports.
        looks: The setting of the study that has the numbers of seeds.
        claims: The claims, in order.
        figures: The figures, in order.
        remarks: The remarks, in order.
    """

    study: "Study"
    name: str
    title: str
    looks: str = "seeds"
    claims: list[Claim] = field(default_factory=list)
    figures: list[FigureNode] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def _summary(self) -> Summary:
        title = f"{self.study.name}/{self.name}: {_number_of_claims(self.claims)}"
        return Summary(title, {"title": self.title}, *_claims_table(self.claims))

    def claim(
        self,
        place: str,
        criterion: Criterion,
        *,
        headline: bool = False,
        count_all_seeds: bool = False,
        must_fail_on: MustFail = None,
        name: str | None = None,
        **words: str,
    ) -> Callable[[Callable[..., Any]], Any]:
        """Decorator: declares a claim by a function of one seed that returns the evidence.

        The docstring of the function is the statement, followed by "Measured:" and the estimator.
        The function returns a number, or a labelled array with one value for each setting. Its
        first argument is a `Lab`; the defaults of the others may be experiments or measurements, in
        place of which it gets their results.

        Args:
            place: Where the paper makes the claim.
            criterion: What confirms it.
            headline: Whether it belongs to the budget "quick".
            count_all_seeds: Whether to count seeds that the experiments do not count.
            must_fail_on: Arguments with which the claim is false, or "untrained".
            name: The name of the claim; by default that of the function, with hyphens.
            **words: Text for the `{…}` in the docstring.

        Raises:
            ValueError: if the name is taken, the docstring is incomplete, an argument has no value,
                the function returns nothing, or the criterion is none.

        Examples:
            ```python
            @part.claim("Section 3", within(0.01), must_fail_on="untrained")
            def risk(lab, trained=one_layer):
                '''The layer has the risk of one step of gradient descent.

                Measured: R / R_GD - 1, exact.
                '''
                return float(trained.last.risk) / one_step_risk(trained.task).best_risk - 1
            ```
        """

        def declare(function: Any) -> Claim:
            given = isinstance(function, Node)
            require_criterion(criterion, function.function if given else function)
            claim = Claim(
                function.function if given else function,
                function.changes if given else {},
                place=place,
                criterion=criterion,
                headline=headline,
                count_all_seeds=count_all_seeds,
                must_fail_on=must_fail_on,
                label=name,
                words=words,
            )
            _require_evidence(claim)
            self.study.require_new(claim.name, claim.function)
            claim.require_complete()
            self._require_another(claim)
            if must_fail_on is not None:
                claim.falsified()
            self.claims.append(claim)
            return claim

        return declare

    def _require_another(self, claim: Claim) -> None:
        """Raises `ValueError` if another claim has the same identity but a different function.

        Functions created by one function have the same name; if their arguments agreed too, they
        would share evidence.
        """
        for other in self.study.claims:
            if other.identity == claim.identity and other.function is not claim.function:
                raise InputError(
                    f"{place_of(claim.function)}: {claim.name} and {other.name} have the same "
                    "function name and arguments; make what differs an argument."
                )

    def figure(
        self, function: Callable[..., Any] | None = None, *, shows: Iterable[Claim] = ()
    ) -> Any:
        """Decorator: declares a figure by a function of all seeds that returns it.

        The docstring of the function is the caption.

        Args:
            function: The function.
            shows: The claims that the figure shows; by default all claims of the part.
        """
        if function is None:
            return lambda function: self.figure(function, shows=shows)
        node = FigureNode(function, shows=tuple(claim.name for claim in shows))
        self.study.require_new(node.name, function, "a figure")
        self.figures.append(node)
        return node

    def remark(
        self, function: Callable[..., str] | None = None, *, shows: Iterable[Claim] = ()
    ) -> Any:
        """Decorator: declares a remark by a function of all seeds that returns a sentence.

        Args:
            function: The function.
            shows: The claims that the remark is about; by default all claims of the part.
        """
        if function is None:
            return lambda function: self.remark(function, shows=shows)
        self.remarks.append(Remark(function, shows=tuple(claim.name for claim in shows)))
        return self.remarks[-1]

    def experiment(self, function: Callable[..., Any]) -> Any:
        """Decorator: declares an experiment by a function of the settings.

        Args:
            function: Returns an `Experiment`, or a mapping of labels to experiments.
        """
        node = ExperimentNode(function)
        self.study.require_new(node.name, function, "an experiment")
        return node

    def measurement(self, function: Callable[..., Any]) -> Any:
        """Decorator: declares a measurement by a function of one seed.

        Args:
            function: As for `mesalens.atlas.measurement`.
        """
        return Measurement(function)


class Study(Described):
    """A paper, and how its claims are checked.

    A study with a single part has the decorators of `Part`: `claim`, `figure`, `remark`,
    `experiment` and `measurement`.

    Args:
        name: The name for commands, such as "ahn-2023".
        title: The title of the paper.
        citation: Authors, venue and arXiv number.
        system: What the paper studies, in one line: the task, the learner, the training.
        note: Where conventions differ from those of the paper.
        unchecked: Claims of the paper that are not checked, each with the reason.
        settings: Values that experiments and measurements read; `--set` can change them. `seeds`
            has the number of seeds at each look, such as (5, 10, 20).
        **budgets: "quick", "full" and "paper", each with the settings that it changes.

    Attributes:
        file: The file that declares the study.
        own: Whether it is a study of the user, and not one of the package.
        source: What the user's file contained when it was imported; reports have a copy. None for
            a study of the package, or one that is in no file, such as in a notebook.
        parts: The groups of claims, in order.

    Raises:
        ValueError: if a budget changes an unknown setting.

    Examples:
        ```python
        STUDY = Study(
            "paper-2026",
            title="A title",
            citation="Authors, venue",
            settings={"dim": 10, "steps": 5000, "seeds": (5, 10)},
            quick={"steps": 1000},
            full={},
        )
        ```
    """

    def __init__(
        self,
        name: str,
        *,
        title: str,
        citation: str,
        settings: Mapping[str, Any],
        system: str = "",
        note: str = "",
        unchecked: Mapping[str, str] | None = None,
        **budgets: Mapping[str, Any],
    ):
        self.name, self.title, self.citation, self.note = name, title, citation, note
        self.system, self.unchecked = system, dict(unchecked or {})
        self.settings, self.budgets = {"seeds": (5,), **settings}, budgets
        for budget, changes in budgets.items():
            for setting in changes:
                one_of(f"setting of {name} in {budget}", setting, self.settings)
        self.file = _declaring_file()
        self.own = not self.file.resolve().is_relative_to(_STUDIES)
        # Read now, as it may be edited while the study is carried out
        self.source = self.file.read_bytes() if self.own and self.file.is_file() else None
        self.parts: list[Part] = []
        self._places: dict[tuple[str, str], str] = {}
        self._nodes: dict[str, Node] = {}

    def _summary(self) -> Summary:
        parts = ", ".join(part.name for part in self.parts)
        rows = {"title": self.title, "citation": self.citation, "parts": parts}
        title = f"{self.name}: {_number_of_claims(self.claims)}"
        return Summary(title, rows, *_claims_table(self.claims))

    def part(self, name: str, title: str, looks: str = "seeds") -> Part:
        """Adds a group of claims.

        Args:
            name: The name for commands, as in STUDY/PART.
            title: The heading in reports.
            looks: The setting that has the numbers of seeds.

        Raises:
            ValueError: if the name is taken, or there is no such setting.
        """
        self.require_new(name, None)
        one_of("setting", looks, self.settings)
        self.parts.append(Part(self, name, title, looks))
        return self.parts[-1]

    def __getattr__(self, name: str) -> Any:
        """The decorators of the only part, in a study that declares no parts."""
        if name not in ("claim", "figure", "remark", "experiment", "measurement"):
            raise AttributeError(name)
        if name in ("experiment", "measurement"):
            return getattr(Part(self, "", ""), name)
        if not self.parts or self.parts[0].name != "claims":
            self.parts.insert(0, Part(self, "claims", "Claims"))
        return getattr(self.parts[0], name)

    def __reduce__(self) -> tuple[Any, ...]:
        """A study is pickled as its name, or as the file that declares it."""
        from mesalens import studies, user_files  # these import this module

        if self.name in studies.STUDIES and studies.study(self.name) is self:
            return studies.study, (self.name,)
        user_files.send(self.file)
        return studies.study, (str(self.file.resolve()),)

    @property
    def references(self) -> tuple[str, ...]:
        """What `mesalens.citation` cites of it: its paper."""
        about = {"study": self.name, "title": self.title, "citation": self.citation}
        return (study_reference(about),)

    @property
    def claims(self) -> list[Claim]:
        """All claims, in order."""
        return [claim for part in self.parts for claim in part.claims]

    def node(self, identity: str) -> Node:
        """The function of the study with an identity.

        Args:
            identity: The `identity` of its node.

        Raises:
            ValueError: if there is none.
        """
        if identity not in self._nodes:
            tops: list[Node] = [
                node for part in self.parts for node in (*part.claims, *part.figures, *part.remarks)
            ]
            tops += [c.falsified() for c in self.claims if c.must_fail_on is not None]
            self._nodes = {node.identity: node for node in all_nodes(tops)}
        if identity not in self._nodes:
            raise InputError(f"{self.name} has no function {identity}; its file may have changed.")
        return self._nodes[identity]

    def values(self, budget: str, changes: Mapping[str, Any] | None = None) -> Values:
        """The settings of a budget.

        Args:
            budget: "quick", "full" or "paper".
            changes: Other values of some settings, also as text.

        Raises:
            ValueError: if a budget or setting is unknown, or a value has the wrong type.
        """
        one_of(f"budget of {self.name}", budget, self.budgets)
        values = Values(self.settings | dict(self.budgets[budget]))
        for name, value in (changes or {}).items():
            before = values[one_of(f"setting of {self.name}", name, values)]
            values[name] = _as_before(name, value, before)
        return values

    def select(self, names: Iterable[str | None], budget: str) -> list[tuple[Part, list[Claim]]]:
        """The parts with these names, or with claims of these names, each with those claims.

        Args:
            names: Names of parts or claims; None for all claims (for the budget "quick" all
                headline claims).
            budget: The budget.

        Raises:
            ValueError: if a name is unknown; the error suggests similar ones.
        """
        names = set(names)
        known = [each.name for part in self.parts for each in (part, *part.claims)]
        for name in filter(None, names):
            one_of(f"part or claim of {self.name}", name, known)

        def chosen(part: Part, claim: Claim) -> bool:
            headline = None in names and (budget != "quick" or claim.headline)
            return headline or not names.isdisjoint((part.name, claim.name))

        selected = [(part, [c for c in part.claims if chosen(part, c)]) for part in self.parts]
        return [(part, claims) for part, claims in selected if claims]

    def require_new(
        self, name: str, function: Callable[..., Any] | None, kind: str = "a part or claim"
    ) -> None:
        """Registers a name.

        Args:
            name: The name.
            function: The function that has it; None for a part.
            kind: What has the name; names of different kinds may agree.

        Raises:
            ValueError: if the name is taken.
        """
        place = _declared_at(function) if function else str(self.file)
        if (kind, name) in self._places:
            raise InputError(
                f"{place}: {self.name} already has {kind} called {name}, at "
                f"{self._places[kind, name]}; use another name."
            )
        self._places[kind, name] = place


def _number_of_claims(claims: list[Claim]) -> str:
    return f"{len(claims)} claim{'s' * (len(claims) != 1)}"


def _claims_table(claims: list[Claim]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    head = ("claim", "statement", "criterion", "place")
    return head, [(c.name, c.statement, c.criterion.words, c.place) for c in claims]


def _in_atlas(frame: Any) -> bool:
    return frame.f_globals.get("__name__", "").startswith(_ATLAS)


def _declaring_file() -> Path:
    """The file that creates a study: neither this one nor that of a decorator around it."""
    frame = inspect.currentframe()
    while frame is not None:
        file, module = frame.f_code.co_filename, frame.f_globals.get("__name__", "")
        checking = module.partition(".")[0] in ("jaxtyping", "beartype") or file.startswith("<")
        if file != __file__ and not checking:
            return Path(file)
        frame = frame.f_back
    raise InputError("a Study must be declared in a file.")


def place_of(function: Callable[..., Any]) -> str:
    """Where a function is defined: "file.py:12"."""
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _declared_at(function: Callable[..., Any]) -> str:
    """Where a function is given to a study: of a standard claim, the line that asks for it."""
    place = place_of(function)
    if function.__module__.startswith(_ATLAS):
        outside = (f for f in inspect.stack() if not _in_atlas(f.frame))
        place = next((f"{f.filename}:{f.lineno}" for f in outside), place)
    return place


def require_criterion(criterion: Any, function: Callable[..., Any]) -> None:
    """Raises `ValueError` for what is no criterion, such as the number of a margin."""
    if not isinstance(criterion, Criterion):
        raise InputError(
            f"{_declared_at(function)}: the criterion of a claim must be one of mesalens.atlas, "
            f"such as within(0.1), above(0.1) or below(0.1); got {criterion!r}."
        )


def _require_evidence(claim: Claim) -> None:
    """Raises `ValueError` for a function that returns nothing."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(claim.function)))
    if not any(isinstance(node, ast.Return) and node.value for node in ast.walk(tree)):
        raise InputError(
            f"{place_of(claim.function)}: the claim {claim.name} returns no evidence; it must "
            "return what is measured."
        )


def _each(name: str, value: Any) -> list[tuple[str, Any]]:
    """The members of a tuple or mapping with their places, or a single value with its name."""
    if isinstance(value, Mapping):
        return [(f"{name}[{label}]", each) for label, each in value.items()]
    if isinstance(value, tuple):
        return [(f"{name}[{number}]", each) for number, each in enumerate(value)]
    return [(name, value)]


def _full_name(function: Any) -> str:
    """Module and name; keys depend on it, so it does not contain the folder of a user's file."""
    module = function.__module__
    if module.startswith(FILE_MODULE):
        module = Path(sys.modules[module].__file__ or "").stem
    return f"{module}.{function.__qualname__}"


def _name(value: Any) -> str:
    """A value as text for people."""
    if isinstance(value, Node):
        return value.name
    if isinstance(value, Mapping):
        return ", ".join(map(str, value))
    if isinstance(value, tuple | list):
        return ", ".join(map(_name, value))
    if isinstance(value, functools.partial):
        return " ".join(map(_name, (value.func, *value.args, *value.keywords.values())))
    return getattr(value, "__name__", str(value)).replace("_", "-")


def _given(name: str, value: Any) -> str:
    """An argument as text for people: numbers with their name, True as its name."""
    if value is True:
        return name.replace("_", "-")
    return f"{name}={value}" if isinstance(value, int | float) else _name(value)


def _words(value: Any) -> str:
    """A value as text that identifies it."""
    if isinstance(value, Node):
        return value.identity
    if isinstance(value, functools.partial):
        arguments = {n: _Named(v) for n, v in value.keywords.items()}
        return f"{_words(value.func)}{tuple(map(_Named, value.args))}{arguments}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_words(each)}" for name, each in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(_words, value)) + ")"
    if callable(value) and hasattr(value, "__qualname__"):
        line = inspect.unwrap(value).__code__.co_firstlineno if hasattr(value, "__code__") else ""
        return f"{_full_name(value)}{line if '<' in value.__qualname__ else ''}"
    return repr(value)


@dataclass(frozen=True)
class _Named:
    """An argument of a partial function: a function is shown by its name, not by its address."""

    value: Any

    def __repr__(self) -> str:
        return _words(self.value) if callable(self.value) else repr(self.value)


def _as_before(name: str, value: Any, before: Any) -> Any:
    """A setting's new value, perhaps from text, with the type of the old one."""
    if isinstance(value, str) and not isinstance(before, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise InputError(f"{name} must be a value like {before!r}; got {value!r}.") from None
    if isinstance(before, tuple) and not isinstance(value, tuple):
        value = tuple(value) if isinstance(value, list) else (value,)
    if isinstance(before, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if before is not None and type(value) is not type(before):
        raise InputError(f"{name} must be a value like {before!r}; got {value!r}.")
    return value


def all_nodes(nodes: Iterable[Node]) -> Iterator[Node]:
    """Nodes and everything that they need, each once."""
    found: dict[str, Node] = {}
    for node in nodes:
        found |= node.closure
    return iter(found.values())
