"""Constructors of Equinox modules in the API reference.

Equinox makes them from fields, as dataclasses do, and Griffe reads the source alone: it knows those
of dataclasses, and not these.
"""

import dataclasses
import inspect
from typing import Any

import equinox as eqx
import griffe


class ModuleConstructors(griffe.Extension):
    """Gives every Equinox module its constructor, as Python sees it, with the source's types."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        for module in (pkg, *_modules(pkg)):
            for class_ in module.classes.values():
                if not class_.is_alias and "__init__" not in class_.members:
                    _add_constructor(class_)


def _modules(package: griffe.Module) -> list[griffe.Module]:
    own = [module for module in package.modules.values() if not module.is_alias]
    return [each for module in own for each in (module, *_modules(module))]


def _add_constructor(class_: griffe.Class) -> None:
    runtime = griffe.dynamic_import(class_.path)
    if not issubclass(runtime, eqx.Module):
        return
    fields = dict(class_.all_members)
    own = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    made = {field.name: field.default_factory for field in dataclasses.fields(runtime)}
    parameters = [own, *(_parameter(p, fields, made) for p in _signature(runtime))]
    init = griffe.Function("__init__", parent=class_, parameters=griffe.Parameters(*parameters))
    class_.set_member("__init__", init)


def _signature(runtime: type) -> list[inspect.Parameter]:
    return list(inspect.signature(runtime).parameters.values())


def _parameter(runtime: inspect.Parameter, fields: dict, made: dict) -> griffe.Parameter:
    """A parameter of this name, kind and default, with the type that the source gives it."""
    annotation = getattr(fields.get(runtime.name), "annotation", None)
    default = None if runtime.default is inspect.Parameter.empty else repr(runtime.default)
    if default == "<factory>":  # which is no Python, so that such signatures would not be broken
        default = f"{made[runtime.name].__name__}()"
    kind = griffe.ParameterKind[runtime.kind.name.lower()]
    return griffe.Parameter(runtime.name, annotation=annotation, kind=kind, default=default)
