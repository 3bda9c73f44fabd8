"""`Study`: a paper as declarations: its experiments, what is measured of them, and its claims.

Everything is a function whose parameters, by their defaults, say what it needs:

    study = Study("paper-2023", title="…", citation="…", settings={"dim": 10, …}, quick={…}, …)

    @study.experiment
    def one_layer(s):
        return Experiment(task=…, steps=s.steps, …)

    @study.measurement
    def compared(lab, trained=one_layer):
        return {"risk_difference": …, "cosine": …}

    @study.claim("Section 3", within(0.01), headline=True)
    def risk(lab, compared=compared):
        '''After training, the layer's risk is that of one step of gradient descent.

        Measured: R / R_GD - 1, both on the same fresh prompts.
        '''
        return compared.risk_difference

Measurements and claims are functions of one seed. Figures and remarks are functions of all seeds.
The name of a claim is that of its function, with hyphens; what it returns is the evidence.
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

FILE_MODULE = "mesalens_study_"
"""What the names of modules begin with that are files of users."""

_ATLAS = __name__.rpartition(".")[0]

MustFail = Mapping[str, Any] | Literal["untrained"] | None


class Values(dict[str, Any]):
    """The settings of a study with those of a budget: `s.steps` is `s["steps"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the study has no setting {name!r}") from None

    def of(self, part: str) -> "Values":
        """The settings of a part, `softmax_steps`, in place of those of all, `steps`."""
        own = {n.removeprefix(f"{part}_"): v for n, v in self.items() if n.startswith(f"{part}_")}
        return Values(self | own)


@dataclass(frozen=True)
class Lab:
    """What a function of a study is carried out with: settings, the seed, and random keys.

    `seed` is the number of the seed that is measured, None for a function of all seeds, and
    `study_seed` the one that all random numbers come from. `purpose` is what keys are drawn for.
    """

    settings: Values
    study_seed: int
    purpose: str
    seed: int | None = None

    def key(self, *words: str) -> Key[Array, ""]:
        """A random key for a purpose in words; no other function, seed or words has the same."""
        return random.measurement_key(self.study_seed, *self._digest(words))

    def rng(self, *words: str) -> np.random.Generator:
        """NumPy's generator for a purpose in words, as for `key`."""
        return np.random.default_rng([self.study_seed, *self._digest(words)])

    def _digest(self, words: tuple[str, ...]) -> list[int]:
        text = repr((self.purpose, self.seed, words))
        return np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], np.uint32).tolist()


@dataclass(frozen=True, eq=False)
class Node:
    """A function of a study, with arguments in place of some of its defaults.

    Nodes of the same function with the same arguments are one: they have the same `identity`.
    """

    function: Callable[..., Any]
    changes: Mapping[str, Any] = field(default_factory=dict)

    def given(self, **arguments: Any) -> Any:
        """The same function with other arguments, which may be nodes, functions or values."""
        known = list(inspect.signature(self.function).parameters)[1:]
        for name in arguments:
            one_of(f"parameter of {self.function.__name__}", name, known)
        return replace(self, changes={**self.changes, **arguments})

    @property
    def untrained(self) -> Any:
        """The same for what has not learned yet; trainings in tuples and mappings stay."""
        nodes = {n: v.untrained for n, v in self.arguments.items() if isinstance(v, Node)}
        return self.given(**nodes)

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """All arguments but the first, by name.

        Raises:
            ValueError: if one has no value.
        """
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        values = {p.name: self.changes.get(p.name, p.default) for p in parameters}
        for name, value in values.items():
            if value is inspect.Parameter.empty:
                raise InputError(f"{place_of(self.function)}: {name} needs a default, or a value.")
        return values

    @functools.cached_property
    def needs(self) -> dict[str, "Node"]:
        """The arguments that are nodes, by name; of a tuple or mapping each, as "name[0]"."""
        found: dict[str, Node] = {}
        for name, value in self.arguments.items():
            for place, each in _each(name, value):
                if isinstance(each, Node):
                    found[place] = each
        return found

    def call(self, first: Any, results: Mapping[str, Any]) -> Any:
        """The function's value, with results for its nodes."""

        def value_of(name: str, value: Any) -> Any:
            values = [results.get(place, each) for place, each in _each(name, value)]
            if isinstance(value, Mapping):
                return dict(zip(value, values, strict=True))
            return tuple(values) if isinstance(value, tuple) else values[0]

        return self.function(first, **{n: value_of(n, v) for n, v in self.arguments.items()})

    @functools.cached_property
    def identity(self) -> str:
        """The function and its arguments, in words that say which ones they are."""
        arguments = ", ".join(f"{name}={_words(v)}" for name, v in self.arguments.items())
        return f"{_full_name(self.function)}({arguments})"

    @functools.cached_property
    def name(self) -> str:
        """The function's name with hyphens, and the arguments that were given."""
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
    """A function of the settings that makes an `Experiment`, or several by their labels."""

    fields: Mapping[str, Any] = field(default_factory=dict)

    def but(self, **fields: Any) -> Any:
        """The same with other values of some fields of `Experiment`."""
        return replace(self, fields={**self.fields, **fields})

    @property
    def untrained(self) -> Any:
        """The same after a single step, where every seed counts."""
        return self.but(steps=1, counts=None, optimiser="adam")

    def call(self, first: Any, results: Mapping[str, Any]) -> Any:
        made = super().call(first, results)
        if isinstance(made, Mapping):
            return {label: replace(each, **self.fields) for label, each in made.items()}
        return replace(made, **self.fields)

    @functools.cached_property
    def identity(self) -> str:
        return super().identity + "".join(f" {n}={_words(v)}" for n, v in self.fields.items())

    @functools.cached_property
    def name(self) -> str:
        return super().name + "".join(f" {n}={_name(v)}" for n, v in self.fields.items())


class Measurement(Node):
    """A function of one seed: `f(lab, …)` returns numbers or arrays by name, or a dataset."""


# As the default of a parameter a node stands for its result, which has another type: hence `Any`
def measurement(function: Callable[..., Any]) -> Any:
    """Makes a measurement of a function; studies share such measurements by `given`."""
    return Measurement(function)


@dataclass(frozen=True, eq=False)
class Claim(Measurement):
    """A statement of a paper, where it is made, what is measured, and what confirms it.

    With `every_seed` also seeds count that the rules of the experiments leave out. `must_fail_on`
    has arguments with which the claim is false, or is "untrained" where it is false of what has not
    learned yet: a claim that cannot fail is not a check.
    """

    place: str = ""
    criterion: Criterion = None  # pyright: ignore
    headline: bool = False
    every_seed: bool = False
    must_fail_on: MustFail = None
    label: str | None = None
    words: Mapping[str, str] = field(default_factory=dict)

    @functools.cached_property
    def name(self) -> str:
        return self.label or self.function.__name__.replace("_", "-")

    @functools.cached_property
    def statement(self) -> str:
        """What is claimed: the docstring up to "Measured:"."""
        return self._text[0]

    @functools.cached_property
    def estimator(self) -> str:
        """What is measured: the docstring behind "Measured:"."""
        return self._text[1]

    @functools.cached_property
    def _text(self) -> tuple[str, str]:
        text = inspect.getdoc(self.function) or ""
        statement, _, estimator = text.partition("Measured:")
        if not statement.strip() or not estimator.strip():
            raise InputError(
                f"{place_of(self.function)}: the claim {self.name} needs a docstring with a "
                'statement, and "Measured:" with what is measured.'
            )
        plain = [" ".join(part.split()) for part in (statement, estimator)]
        statement, estimator = (part.format(**self.words) for part in plain)
        return statement, estimator.rstrip(".")

    def require_complete(self) -> None:
        """Raises `ValueError` if an argument has no value, or the docstring lacks something."""
        _ = self.arguments, self.statement

    def falsified(self) -> "Claim":
        """The claim in the world in which it must fail."""
        if self.must_fail_on is None:
            raise InputError(f"{self.name} has no must_fail_on.")
        if self.must_fail_on == "untrained":
            return self.untrained
        return self.given(**self.must_fail_on)


@dataclass(frozen=True, eq=False)
class FigureNode(Node):
    """A function of all seeds that draws a Matplotlib figure; its docstring is the caption.

    It may return words for the caption's `{…}` behind the figure. `shows` names claims.
    """

    shows: tuple[str, ...] = ()

    def caption(self, words: Mapping[str, Any]) -> str:
        """The docstring with words."""
        return " ".join((inspect.getdoc(self.function) or "").split()).format(**words)


@dataclass(frozen=True, eq=False)
class Remark(Node):
    """A function of all seeds that returns a sentence which readers of the verdicts need."""

    shows: tuple[str, ...] = ()


@dataclass
class Part:
    """A group of claims, with the figures that show them."""

    study: "Study"
    name: str
    title: str
    looks: str = "seeds"
    claims: list[Claim] = field(default_factory=list)
    figures: list[FigureNode] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def claim(
        self,
        place: str,
        criterion: Criterion,
        *,
        headline: bool = False,
        every_seed: bool = False,
        must_fail_on: MustFail = None,
        name: str | None = None,
        **words: str,
    ) -> Callable[[Callable[..., Any]], Any]:
        """Declares a claim by a function of one seed, or a node of it, that returns the evidence.

        Args:
            place: Where the paper makes it.
            criterion: What confirms it.
            headline: Whether it belongs to the budget `quick`.
            every_seed: Whether all seeds count.
            must_fail_on: Arguments with which it is false, or "untrained".
            name: Its name, if one function declares several claims.
            **words: Put into the `{…}` of the docstring.
        """

        def declare(function: Any) -> Claim:
            given = isinstance(function, Node)
            claim = Claim(
                function.function if given else function,
                function.changes if given else {},
                place=place,
                criterion=criterion,
                headline=headline,
                every_seed=every_seed,
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
        """Raises `ValueError` if another claim is the same function to all who look at its name.

        Functions that another one makes have one name; what differs between them has to be among
        their arguments, or they would share evidence.
        """
        for other in self.study.claims:
            if other.identity == claim.identity and other.function is not claim.function:
                raise InputError(
                    f"{place_of(claim.function)}: {claim.name} and {other.name} have the same "
                    "function and arguments; give what differs as an argument."
                )

    def figure(
        self, function: Callable[..., Any] | None = None, *, shows: Iterable[Claim] = ()
    ) -> Any:
        """Declares a figure by a function of all seeds; of which claims, if not of all here."""
        if function is None:
            return lambda function: self.figure(function, shows=shows)
        node = FigureNode(function, shows=tuple(claim.name for claim in shows))
        self.study.require_new(node.name, function, "a figure")
        self.figures.append(node)
        return node

    def remark(
        self, function: Callable[..., str] | None = None, *, shows: Iterable[Claim] = ()
    ) -> Any:
        """Declares a remark by a function of all seeds; on which claims, if not on all here."""
        if function is None:
            return lambda function: self.remark(function, shows=shows)
        self.remarks.append(Remark(function, shows=tuple(claim.name for claim in shows)))
        return self.remarks[-1]

    def experiment(self, function: Callable[..., Any]) -> Any:
        """Declares an experiment by a function of the settings."""
        node = ExperimentNode(function)
        self.study.require_new(node.name, function, "an experiment")
        return node

    def measurement(self, function: Callable[..., Any]) -> Any:
        """Declares a measurement by a function of one seed."""
        return Measurement(function)


class Study:
    """A paper, and how its claims are checked.

    Args:
        name: For commands, as "ahn-2023".
        title: Of the paper.
        citation: Authors, venue and arXiv number.
        system: What the paper studies, in a line: the task, the learner, the training.
        note: Where conventions differ from the paper's.
        unchecked: Claims of the paper that are not checked here: each, and why.
        settings: Plain values that experiments and measurements read. All may be changed by
            `--set`. `seeds` has the numbers of seeds of the looks, such as (5, 10, 20).
        **budgets: `quick`, `full` and `paper`, each with the settings that it changes.
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
        self.parts: list[Part] = []
        self._places: dict[tuple[str, str], str] = {}
        self._nodes: dict[str, Node] = {}

    def part(self, name: str, title: str, looks: str = "seeds") -> Part:
        """A new group of claims; `looks` names the setting with its numbers of seeds."""
        self.require_new(name, None)
        one_of("setting", looks, self.settings)
        self.parts.append(Part(self, name, title, looks))
        return self.parts[-1]

    def __getattr__(self, name: str) -> Any:
        """A study of a few claims has one part, which its decorators use."""
        if name not in ("claim", "figure", "remark", "experiment", "measurement"):
            raise AttributeError(name)
        if name in ("experiment", "measurement"):
            return getattr(Part(self, "", ""), name)
        if not self.parts or self.parts[0].name != "claims":
            self.parts.insert(0, Part(self, "claims", "Claims"))
        return getattr(self.parts[0], name)

    def __reduce__(self) -> tuple[Any, ...]:
        """A study travels as its name, or as the file that declares it."""
        from mesalens import studies, user_files  # which need this room

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
        """The function with an identity, of those that the study is made of.

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
            raise InputError(f"{self.name} has no {identity}; its file may have changed.")
        return self._nodes[identity]

    def values(self, budget: str, changes: Mapping[str, Any] | None = None) -> Values:
        """The settings of a budget, with changes.

        Raises:
            ValueError: for an unknown budget or setting, or a value of another type.
        """
        one_of(f"budget of {self.name}", budget, self.budgets)
        values = Values(self.settings | dict(self.budgets[budget]))
        for name, value in (changes or {}).items():
            before = values[one_of(f"setting of {self.name}", name, values)]
            values[name] = _as_before(name, value, before)
        return values

    def select(self, names: Iterable[str | None], budget: str) -> list[tuple[Part, list[Claim]]]:
        """The parts, each with its claims, that names stand for.

        Args:
            names: Parts, claims, or None for all: in the budget `quick` for the headline.
            budget: The budget.

        Raises:
            ValueError: for an unknown name; the error has the nearest ones.
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
        """Notes a name; raises `ValueError` if there is one of that kind and name."""
        place = place_of(function) if function else str(self.file)
        if function and function.__module__.startswith(_ATLAS):  # a standard claim
            outside = (f for f in inspect.stack() if not _in_atlas(f.frame))
            place = next((f"{f.filename}:{f.lineno}" for f in outside), place)
        if (kind, name) in self._places:
            raise InputError(
                f"{place}: {self.name} has {name} ({kind}) already, at "
                f"{self._places[kind, name]}; give another name."
            )
        self._places[kind, name] = place


def _in_atlas(frame: Any) -> bool:
    return frame.f_globals.get("__name__", "").startswith(_ATLAS)


def _declaring_file() -> Path:
    """The file that makes a study: neither this one nor that of a decorator around it."""
    frame = inspect.currentframe()
    while frame is not None:
        file, module = frame.f_code.co_filename, frame.f_globals.get("__name__", "")
        checking = module.partition(".")[0] in ("jaxtyping", "beartype") or file.startswith("<")
        if file != __file__ and not checking:
            return Path(file)
        frame = frame.f_back
    raise InputError("a Study has to be declared in a file.")


def place_of(function: Callable[..., Any]) -> str:
    """Where a function is defined: "file.py:12"."""
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _require_evidence(claim: Claim) -> None:
    """Raises `ValueError` for a function that returns nothing."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(claim.function)))
    if not any(isinstance(node, ast.Return) and node.value for node in ast.walk(tree)):
        raise InputError(
            f"{place_of(claim.function)}: the claim {claim.name} returns no evidence; return what "
            "is measured."
        )


def _each(name: str, value: Any) -> list[tuple[str, Any]]:
    """The members of a tuple or mapping with their places, or a single value with its name."""
    if isinstance(value, Mapping):
        return [(f"{name}[{label}]", each) for label, each in value.items()]
    if isinstance(value, tuple):
        return [(f"{name}[{number}]", each) for number, each in enumerate(value)]
    return [(name, value)]


def _full_name(function: Any) -> str:
    """Module and name; keys depend on it, and a file of one's own may be moved."""
    module = function.__module__
    if module.startswith(FILE_MODULE):
        module = Path(sys.modules[module].__file__ or "").stem
    return f"{module}.{function.__qualname__}"


def _name(value: Any) -> str:
    """A value in words for people."""
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
    """An argument in words for people: numbers with their name, and what is true by its name."""
    if value is True:
        return name.replace("_", "-")
    return f"{name}={value}" if isinstance(value, int | float) else _name(value)


def _words(value: Any) -> str:
    """A value in words that identify it."""
    if isinstance(value, Node):
        return value.identity
    if isinstance(value, functools.partial):
        return f"{_words(value.func)}{value.args}{value.keywords}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_words(each)}" for name, each in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(_words, value)) + ")"
    if callable(value) and hasattr(value, "__qualname__"):
        line = inspect.unwrap(value).__code__.co_firstlineno if hasattr(value, "__code__") else ""
        return f"{_full_name(value)}{line if '<' in value.__qualname__ else ''}"
    return repr(value)


def _as_before(name: str, value: Any, before: Any) -> Any:
    """A setting's new value, from words or as it is, of the type that it had."""
    if isinstance(value, str) and not isinstance(before, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise InputError(f"{name} must be like {before!r}; got {value!r}.") from None
    if isinstance(before, tuple) and not isinstance(value, tuple):
        value = tuple(value) if isinstance(value, list) else (value,)
    if isinstance(before, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if before is not None and type(value) is not type(before):
        raise InputError(f"{name} must be like {before!r}; got {value!r}.")
    return value


def all_nodes(nodes: Iterable[Node]) -> Iterator[Node]:
    """Nodes and all that they need, each once."""
    found: dict[str, Node] = {}
    for node in nodes:
        found |= node.closure
    return iter(found.values())
