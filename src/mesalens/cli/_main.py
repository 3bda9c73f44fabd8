"""`main`: reads the command line and runs the command.

Slow imports happen after the signal handlers are installed.
"""

import atexit
import contextlib
import gc
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator

from mesalens.cli.interruption import handled, leave

COMMANDS = {
    "list": ("list_studies:List", "list the studies, their claims and stored verdicts"),
    "reproduce": ("reproduce:Reproduce", "check the claims of papers, and write a report"),
    "verdicts": ("verdicts:Verdicts", "collect the verdicts of several reports in one table"),
    "store": ("store:Store", "show or delete stored results"),
    "optimum": ("optimum:Optimum", "compute the best layer of linear self-attention for a task"),
    "train": ("train:Train", "train learners, and save them in a folder"),
    "sweep": ("train:Sweep", "train with all combinations of the values of some settings"),
    "identify": ("identify:Identify", "find out which algorithm a learner runs"),
    "compare": ("compare:Compare", "compare trained learners with reference algorithms"),
    "explore": ("explore:Explore", "open a page that computes optima, flows and filters"),
    "cite": ("cite:Cite", "print BibTeX of mesalens, of papers and of methods"),
}
"""The class of each command, and what the command does."""

CRASHED = 70
"""The exit code of an error in mesalens itself, EX_SOFTWARE of sysexits.h."""

HELP = "\n".join(
    [
        "usage: mesalens COMMAND [OPTIONS]      mesalens --version\n",
        "Build, train, solve and identify in-context learners, and check what papers claim",
        "about them.\n",
        *(f"  {name:<12}{purpose}" for name, (_, purpose) in COMMANDS.items()),
        "\nmesalens COMMAND --help describes a command and its options.",
        "mesalens --print-completion bash|zsh|fish prints a completion script for a shell.",
    ]
)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    atexit.register(gc.freeze)  # otherwise Python scans all objects once more when it exits
    _use_safe_streams()
    with handled(leave):
        try:
            code = _run(arguments)
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # `mesalens list | head` ends quietly
            _close_output()
            return 0
        except Exception as error:
            sentence = _input_error(error)
            if not sentence:
                traceback.print_exc()
            problem = sentence or "this is an error in mesalens, or in a file of yours."
            print(f"mesalens: {problem}", file=sys.stderr)
            return 2 if sentence else CRASHED


def _run(arguments: list[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-h"):
        print(HELP)
        return 0
    if name == "--version":
        from mesalens import __version__

        print(f"mesalens {__version__}")
        return 0
    if name == "--print-completion":
        from mesalens.cli.completion import script

        print(script(rest[0] if rest else "", COMMANDS))
        return 0
    with _without_collection():
        from mesalens.checks import one_of  # which imports JAX

        place, _ = COMMANDS[one_of("command", name, COMMANDS)]
        if name not in ("list", "cite"):
            from mesalens.program_cache import keep_programs_if_possible

            keep_programs_if_possible()
        from mesalens.cli.device import on
        from mesalens.cli.options import read_options

        kind = pkgutil.resolve_name(f"mesalens.cli.{place}")
        command = read_options(kind, f"mesalens {name}", rest)
    with on(getattr(command, "device", None)):
        return command()


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """A context for imports, which make many objects and hardly any garbage.

    Python would scan them again and again while they grow, for a tenth of the time until a command
    starts. Afterwards they are left out of every scan.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def _input_error(error: Exception) -> str | None:
    """The sentence for an error that the user can fix, or None."""
    from mesalens.checks import InputError

    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "there is not enough memory; use smaller sizes."
    if isinstance(error, OSError) and error.filename is None:
        _close_output()
        return f"standard output cannot be written ({error.strerror})."
    if isinstance(error, OSError):
        return f"{error.filename} cannot be used ({error.strerror})."
    if isinstance(error, ValueError | RuntimeError):  # of Matplotlib and JAX
        for name in ("MPLBACKEND", "JAX_PLATFORMS"):
            if (value := os.environ.get(name)) and value in str(error):
                return f"{name}={value} cannot be used ({str(error).splitlines()[0]})."
    return None


def _use_safe_streams() -> None:
    """Replaces missing streams, and writes characters that cannot be encoded as `?`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _close_output() -> None:
    """Discards buffered output, so that Python does not fail when it exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
