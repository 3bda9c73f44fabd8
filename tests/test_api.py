"""Every public name has a docstring from which the API reference can be built."""

import inspect
from typing import Any

import pytest
from public_names import ROOMS, names_of, source_of, value_of

SECTIONS = {"Args": "parameters", "Attributes": "attributes", "Returns": "returns"}


def sections(docstring: Any) -> dict[str, list[Any]]:
    """The items of each section of a docstring, by its title."""
    parsed = docstring.parsed if docstring else ()
    found = {section.kind.value: section.value for section in parsed}
    return {title: found.get(kind, []) for title, kind in SECTIONS.items()}


def described(docstring: Any, *titles: str) -> set[str]:
    """The names that sections of a docstring describe."""
    found = sections(docstring)
    return {item.name.lstrip("*") for title in titles for item in found[title]}


def faults_of_function(function: Any, inherited: frozenset[str] = frozenset()) -> list[str]:
    """What is missing in the docstring of a function, or wrong.

    The arguments in `inherited` are described in a base class.
    """
    if not function.docstring:
        return [f"{function.path} has no docstring"]
    names = {each.name.lstrip("*") for each in function.parameters} - {"self", "cls"}
    told = described(function.docstring, "Args")
    faults = [f"{function.path}: {name} is not described" for name in names - told - inherited]
    faults += [f"{function.path}: {name} is not an argument" for name in told - names]
    returned = sections(function.docstring)["Returns"]
    if len(returned) > 1 and not all(item.name for item in returned):
        faults.append(f"{function.path}: continuation lines of Returns must be indented")
    silent = str(function.returns) in ("None", "NoReturn", "typing.NoReturn")
    # The first line of a method's docstring says what it returns, as that of a property does
    if not (silent or function.parent.is_class or returned):
        faults.append(f"{function.path}: what it returns is not described")
    return faults


def faults_of_class(kind: Any, value: type) -> list[str]:
    """What is missing in the docstrings of a class and of its public members, or wrong."""
    if not kind.docstring:
        return [f"{kind.path} has no docstring"]
    family = [kind, *kind.mro()]
    members = [each.members for each in family]
    known = {name for each in members for name, member in each.items() if member.docstring}
    for each in family:
        init = each.members.get("__init__")
        known |= described(each.docstring, "Args", "Attributes")
        known |= described(init.docstring, "Args") if init else set()
    arguments = arguments_of(value)
    faults = [f"{kind.path}: {name} is not described" for name in arguments - known]
    told = described(kind.docstring, "Args", "Attributes")
    unknown = told - arguments - {name for each in members for name in each}
    faults += [f"{kind.path}: {name} is neither an argument nor a field" for name in unknown]
    for name, member in kind.members.items():
        if member.is_alias or (name.startswith("_") and name != "__call__"):
            continue
        overridden = [base.members[name] for base in family[1:] if name in base.members]
        foreign = any(name in vars(base) for base in value.__mro__[1:] if not ours(base))
        if (overridden or foreign) and not member.docstring:
            continue  # what it overrides has the docstring
        if member.is_function:
            inherited = [described(each.docstring, "Args") for each in overridden]
            faults += faults_of_function(member, frozenset().union(*inherited))
        elif member.is_attribute and not member.docstring and name not in known | arguments:
            faults.append(f"{member.path} has no docstring")
    return faults


def arguments_of(kind: type) -> set[str]:
    """The arguments of the constructor of a class, if it is one of ours."""
    own = "_fields" in vars(kind) or "__init__" in vars(kind)
    if getattr(kind, "_is_protocol", False) or (issubclass(kind, tuple) and not own):
        return set()  # the constructor is Python's
    if issubclass(kind, tuple):
        return set(inspect.signature(kind.__new__).parameters) - {"_cls"}
    owner = next(base for base in kind.__mro__ if "__init__" in vars(base))
    return set(inspect.signature(kind).parameters) if ours(owner) else set()


def ours(kind: type) -> bool:
    """Whether a class is defined in mesalens."""
    return kind.__module__.startswith("mesalens")


def faults_of(name: str) -> list[str]:
    """What is missing in the docstring of a public name, or wrong."""
    source = source_of(name)
    if source.is_class:
        return faults_of_class(source, value_of(name))
    if source.is_function:
        return faults_of_function(source)
    return [] if source.docstring else [f"{name} has no docstring"]


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_are_described(room):
    names = names_of(room)
    assert names
    faults = [fault for name in names for fault in faults_of(name)]
    assert not faults, "\n".join(faults)
