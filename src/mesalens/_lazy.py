"""`attach`: the public names of a package, each imported when it is first used."""

from collections.abc import Callable
from typing import Any

import lazy_loader


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], Any]:
    """`__getattr__`, `__dir__` and `__all__` of a package, whose stub lists its names.

    A name that is not there is an error with the names that are like it. Python itself suggests
    them only where it prints an uncaught error, not in a notebook or a log.

    Args:
        package: `__name__` of the package.
        file: Its `__file__`, beside which is the stub.
    """
    load, names, public = lazy_loader.attach_stub(package, file)

    def get(name: str) -> Any:
        if name not in public:
            # With `obj`, Python would suggest the same name once more
            raise AttributeError(_sentence(package, name, public), name=name)
        return load(name)

    return get, names, public


def _sentence(package: str, name: str, public: list[str]) -> str:
    sentence = f"{package} has no attribute {name!r}"
    if name.startswith("_"):  # asked for by programs, such as inspect and notebooks
        return sentence
    import difflib  # which most programs do not need

    near = difflib.get_close_matches(name, public, n=3, cutoff=0.6)
    return f"{sentence}; did you mean {' or '.join(near)}?" if near else sentence
