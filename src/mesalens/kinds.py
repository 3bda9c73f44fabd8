"""Settings of parts that are chosen by name: a member of an axis, and its parameters.

An axis, such as noise or attention, is an abstract class; a member is a subclass in a file of its
own. The parameters of a member are read from the signature of its constructor (`initialise`, if it
has one) and described by its docstring. So nothing is written twice, and a class in a user's file
works like one of the package. `mesalens.names` lists the axes and the names of their members.
"""

import ast
import functools
import importlib
import inspect
import json
import pkgutil
import re
import sys
import types
import typing
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from mesalens.checks import InputError, one_of, with_near_names
from mesalens.names import AXES
from mesalens.user_files import import_file, is_there, when_files_change

CONTEXT = ("dim", "outputs", "key", "task", "sizes")
"""Constructor parameters whose values come from the surrounding settings (except for tasks)."""


class Settings(pydantic.BaseModel):
    """Frozen settings that reject unknown names, NaN and infinity."""

    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _suggest_names(cls, content: Any, read: Any) -> Any:
        """The settings; the error of an unknown name suggests those of this class that are near."""
        try:
            return read(content)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            if first["type"] != "extra_forbidden" or len(first["loc"]) != 1:
                raise
            name = str(first["loc"][0])
            known = [each for each in cls.model_fields if each != "kind"]
            words = with_near_names("there is no such setting", name, known)
            kind = PydanticCustomError("unknown_setting", "{words}", {"words": words})
            line = InitErrorDetails(type=kind, loc=first["loc"], input=first["input"])
            raise pydantic.ValidationError.from_exception_data(cls.__name__, [line]) from None

    @classmethod
    def read(cls, content: Any) -> Any:
        """The settings with this content; raises `ValueError` with the path of an invalid value."""
        return checked(lambda: cls.model_validate(content))


def checked(make: Callable[[], Any]) -> Any:
    """`make()`; an error of pydantic becomes an `InputError` with the path of the value."""
    try:
        return make()
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        # The location contains types of unions too; names that clash with Python's end in "_"
        parts = [str(part).rstrip("_") for part in first["loc"] if str(part).isidentifier()]
        path = ".".join(part for part in parts if part not in ("float", "int", "str", "bool"))
        words = first["msg"].replace("Input should be", "must be")
        reason = first.get("ctx", {}).get("error", f"{words}; got {first['input']!r}")
        own = {"unknown_setting": first["msg"], "missing": "a value is required"}
        reason = own.get(first["type"], reason)
        sentence = f"{path}: {reason}" if path else str(reason)
        raise InputError(sentence if sentence[-1] == "?" else f"{sentence.rstrip('.')}.") from None


class KindSettings(Settings):
    """`kind`, the name of a member of an axis, and its parameters."""

    # Classes made from signatures have no source in which pydantic could find docstrings
    model_config = pydantic.ConfigDict(use_attribute_docstrings=False)

    kind: Any

    member: ClassVar[Any] = None
    """The class that `build` constructs."""
    converters: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    """Functions that turn parameters into arrays or functions, by parameter name."""

    def build(self, **context: Any) -> Any:
        """The member that these settings describe.

        Args:
            **context: Values from the surrounding settings (`dim`, `outputs`, `key`, …). Each is
                passed to those constructors that have a parameter of that name.

        Raises:
            ValueError: if a constructor rejects its parameters.
        """
        constructor = constructor_of(self.member)
        known = inspect.signature(constructor).parameters
        arguments = {name: value for name, value in context.items() if name in known}
        for place, name in enumerate(name for name in type(self).model_fields if name != "kind"):
            value = getattr(self, name)
            if isinstance(value, KindSettings):
                # Inner members that draw weights have keys of their own
                key = context.get("key")
                own = {} if key is None else {"key": jax.random.fold_in(key, place)}
                value = value.build(**context | own)
            elif isinstance(value, str | tuple) and name in self.converters:
                value = self.converters[name](value)
            arguments[name] = value
        return constructor(**arguments)


class Member:
    """Annotates a field that holds a member of an axis: `Annotated[Any, Member("noise")]`.

    The field accepts a name, a mapping with `kind` and parameters, or settings. If `kind` is
    missing, it is the first one that has all the parameters.
    """

    def __init__(self, axis: str):
        self.axis = axis

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(lambda value: value.model_dump())
        return core_schema.no_info_plain_validator_function(self.read, serialization=dump)

    def read(self, value: Any) -> KindSettings:
        """The settings of a member, from a value that the field accepts."""
        if isinstance(value, KindSettings):
            return value
        content = {"kind": value} if isinstance(value, str) else value
        if not isinstance(content, Mapping):
            raise InputError(f"give a name, or a mapping with `kind`; got {value!r}.")
        kind = content.get("kind") or self._kind_with(content)
        file, _, name = str(kind).rpartition(":")
        if file.endswith(".py"):  # a run folder may be read from another working directory
            kind = f"{Path(file).resolve()}:{name}"
        return settings_class(self.axis, str(kind)).model_validate({**content, "kind": kind})

    def _kind_with(self, parameters: Mapping[str, Any]) -> str:
        for kind in AXES[self.axis].members:
            if parameters.keys() <= settings_class(self.axis, kind).model_fields.keys():
                return kind
        raise InputError(f"no {self.axis} has all of these parameters: {', '.join(parameters)}.")


def overlay(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with changes; a change of `kind` replaces all settings of that member."""
    merged = dict(base)
    for name, value in changes.items():
        before = base.get(name)
        if isinstance(value, KindSettings):
            value = value.model_dump()
        if isinstance(before, Mapping) and "kind" in before:
            value = {"kind": value} if isinstance(value, str) else value
            if isinstance(value, Mapping):
                kind = value.get("kind")
                same = kind == before["kind"] if kind else value.keys() <= before.keys()
                value = overlay(before, value) if same else value
        merged[name] = value
    return merged


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings from values by their paths; a kind must come before its parameters."""
    content: dict[str, Any] = {}
    for path, value in values.items():
        *parents, name = path.split(".")
        inner = content
        for parent in parents:
            if isinstance(inner.get(parent), str):
                inner[parent] = {"kind": inner[parent]}
            inner = inner.setdefault(parent, {})
        inner[name] = value
    return content


def build(axis: str, kind: Any, **context: Any) -> Any:
    """A member of an axis, from its name, a mapping of `kind` and parameters, or an instance.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(kind, str | Mapping | KindSettings):
        return checked(lambda: Member(axis).read(kind)).build(**context)
    base = load(AXES[axis].place(AXES[axis].base))
    if not isinstance(kind, base):
        given = type(kind).__name__
        raise InputError(
            f"{axis} must be a {base.__name__}, a name, or a mapping with `kind`; got {given}."
        )
    return kind


def resolve(axis: str, kind: str) -> Any:
    """The class of a member, from its name, or from `path/file.py:Name` or `module:Name`.

    Raises:
        ValueError: if the name is unknown, the file cannot be imported, or the class is not a
            member of the axis.
    """
    known = AXES[axis]
    if ":" not in kind and kind.endswith(".py"):
        raise InputError(_without_class(axis, kind))
    if ":" not in kind:
        return load(known.place(known.members[one_of(f"kind of {axis}", kind, known.members)]))
    member = load(kind)
    if not (inspect.isclass(member) and issubclass(member, load(known.place(known.base)))):
        advice = _for_function(kind) if axis == "functions" and inspect.isfunction(member) else ""
        raise InputError(f"{kind} is not a subclass of {known.base}, which {axis} needs{advice}.")
    return member


def _for_function(kind: str) -> str:
    """What to do with a plain function as the functions of a task."""
    return (
        f"; a plain function f(key, x) is given with --functions custom --task.functions.function "
        f"{kind}, in Python as CustomFunctions(dim, f), or make it a class with `__call__`"
    )


def _without_class(axis: str, file: str) -> str:
    """That a file needs the name of a class in it, with those that fit."""
    if not is_there(file):
        return f"there is no file {file}; give a class of {axis} as {file}:NAME."
    names = _classes_in(axis, file)
    found = f", that is {' or '.join(f'{file}:{name}' for name in names)}" if names else ""
    return f"give the class of {axis} in the file: {file}:NAME{found}."


def _classes_in(axis: str, file: str) -> list[str]:
    """The classes in a file that name a class of an axis as a base; the file is not executed."""
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    known = {AXES[axis].base, *(name.split(":")[-1] for name in AXES[axis].members.values())}
    found: list[str] = []
    for each in tree.body:
        if isinstance(each, ast.ClassDef):
            # A base is written Covariates or tasks.Covariates, perhaps with a parameter
            bases = {re.split(r"\[", ast.unparse(base))[0].split(".")[-1] for base in each.bases}
            if not bases.isdisjoint(known | set(found)):
                found.append(each.name)
    return found


def load(place: str) -> Any:
    """The object at `path/file.py:Name` or `module:Name`; raises `ValueError` if there is none."""
    module, _, name = place.rpartition(":")
    if not module:
        raise InputError(f'give "file.py:NAME" or "module:NAME"; got {place!r}.')
    try:
        loaded = _file(module) if module.endswith(".py") else importlib.import_module(module)
    except FileNotFoundError:
        raise InputError(f"{place} cannot be imported: there is no file {module}.") from None
    except ModuleNotFoundError as error:
        raise InputError(f"{place} cannot be imported: {_without(str(error.name))}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{place} cannot be imported ({reason}).") from error
    if not hasattr(loaded, name):
        missing = f"{place} cannot be imported: {module} has no {name!r}"
        public = (each for each in dir(loaded) if not each.startswith("_"))
        raise InputError(with_near_names(missing, name, public))
    return getattr(loaded, name)


def _without(module: str) -> str:
    """What to do about a module that is not there."""
    package, _, name = module.rpartition(".")
    if not package:
        return f"there is no package {module!r} here; install it, or correct its name."
    inside = getattr(sys.modules.get(package), "__path__", [])
    known = (each.name for each in pkgutil.iter_modules(inside))
    return with_near_names(f"{package} has no module {name!r}", name, known)


def _file(path: str) -> types.ModuleType:
    # Files in different folders may have the same name
    name = f"{Path(path).stem}_{zlib.crc32(str(Path(path).resolve()).encode()):08x}"
    return import_file(path, name)


def constructor_of(member: Any) -> Callable[..., Any]:
    """The function that constructs a member: its `initialise`, if it has one, or the class.

    An `initialise` that takes the `sizes` of a model is called by that model. The member is then
    the function itself, with its parameters filled in.
    """
    constructor = getattr(member, "initialise", member)
    if "sizes" not in inspect.signature(constructor).parameters:
        return constructor

    @functools.wraps(constructor)
    def with_parameters(**parameters: Any) -> Callable[..., Any]:
        return functools.partial(constructor, **parameters)

    return with_parameters


@functools.cache
def settings_class(axis: str, kind: str) -> type[KindSettings]:
    """The class of the settings of a member, made from the signature of its constructor.

    Raises:
        ValueError: if the kind is unknown, or a default cannot be written as text.
    """
    member = resolve(axis, kind)
    if issubclass(member, KindSettings):
        return member
    parameters = inspect.signature(constructor_of(member), eval_str=True).parameters
    late = () if axis == "task" else CONTEXT
    if "sizes" in parameters:
        late = (*CONTEXT, "scale")
    fields: dict[str, Any] = {"kind": (Literal[kind], kind)}
    converters: dict[str, Any] = {}
    described = _descriptions(member)
    # Equinox gives the parameters of fields with converters the types of the converters
    types_of_fields = {} if hasattr(member, "initialise") else typing.get_type_hints(member)
    for name, parameter in parameters.items():
        annotation = types_of_fields.get(name, parameter.annotation)
        setting = None if name in late else _setting_type(annotation)
        if setting is not None:
            required = parameter.default is parameter.empty
            default = ... if required else _plain(parameter.default)
            fields[name] = (setting, pydantic.Field(default, description=described.get(name)))
        if array := next((arm for arm in _arms(annotation) if hasattr(arm, "dim_str")), None):
            converters[name] = np.asarray if array.array_type is np.ndarray else jnp.asarray
        elif setting is str and annotation is not str:  # a function, as file.py:name
            converters[name] = load
    model = pydantic.create_model(f"{axis} {kind}", __base__=KindSettings, **fields)
    model.__doc__ = inspect.getdoc(member)
    model.converters = converters
    model.member = member
    return model


when_files_change(settings_class.cache_clear)


def _descriptions(member: Any) -> dict[str, str]:
    """The parameters that the docstrings of a member describe, under `Args` or `Attributes`."""
    texts = (inspect.getdoc(each) for each in (member, constructor_of(member)))
    sections = re.findall(
        r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", "\n\n".join(map(str, texts)), re.M
    )
    entries = re.findall(r"^    (\w+): (.+(?:\n {5,}.+)*)", "\n".join(sections), re.M)
    return {name: " ".join(text.split()) for name, text in entries}


def _plain(default: Any) -> Any:
    """A default as settings hold it; members of axes by their names."""
    if default is None or isinstance(default, str | int | float | tuple):
        return default
    member = getattr(default, "__self__", type(default))  # of a bound `initialise`, its class
    for axis in AXES.values():
        for kind, name in axis.members.items():
            if _is(member, axis.place(name)):
                return kind
    raise InputError(f"the default {default!r} cannot be written as text; give it a name.")


def _is(thing: Any, place: str) -> bool:
    """Whether a class is the one at a place, which is imported only if the names agree."""
    return getattr(thing, "__qualname__", "") == place.partition(":")[2] and thing is load(place)


def _arms(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the one type."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _setting_type(annotation: Any) -> Any:
    """The type of a setting for a constructor's parameter; None if it cannot be text."""
    origin, arms = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (int, float, bool, str, type(None)):
        return annotation
    if len(_arms(annotation)) > 1:
        known = [setting for setting in map(_setting_type, arms) if setting is not None]
        return typing.Union[*known] if known else None
    if origin is Literal or origin is tuple:
        return Annotated[annotation, pydantic.BeforeValidator(_from_text)]
    if hasattr(annotation, "dim_str"):  # jaxtyping's arrays
        dimensions = len(annotation.dim_str.split())
        return (float, tuple[float, ...], Matrix)[dimensions] if dimensions < 3 else None
    # A function that returns a member is set like the member
    target = arms[-1] if origin is Callable else annotation
    for name, axis in AXES.items():
        if _is(target, axis.place(axis.base)):
            return Annotated[KindSettings, Member(name)]
    return str if origin is Callable else None  # a function is given as file.py:name


def _from_text(value: Any) -> Any:
    """A list, which the command line gives as JSON; anything else is returned unchanged."""
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


def _matrix(value: Any) -> Any:
    from mesalens.tasks import read_matrix  # imported here, as tasks import this module

    return read_matrix(Path(value)).tolist() if isinstance(value, str | Path) else value


Matrix = Annotated[tuple[tuple[float, ...], ...], pydantic.BeforeValidator(_matrix)]
"""A matrix by its rows, or the name of a CSV or .npy file that holds it."""
