"""The examples in the docstrings of public names print what they say."""

import doctest
from collections.abc import Iterator

import pytest
from public_names import ROOMS, names_of, source_of


def examples(room: str) -> Iterator[doctest.DocTest]:
    """A test for each public name of a room, or method of one, whose docstring has examples."""
    for name in names_of(room):
        source = source_of(name)
        if room == "mesalens" and source.path.split(".")[1] in ROOMS:
            continue  # its room has it
        for each in (source, *(source.members.values() if source.is_class else ())):
            if not each.is_alias and each.docstring and ">>>" in each.docstring.value:
                text, line = each.docstring.value, each.docstring.lineno
                yield doctest.DocTestParser().get_doctest(
                    text, {}, each.path, str(each.filepath), line
                )


@pytest.mark.parametrize("room", ROOMS)
def test_examples(room):
    failures: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for example in examples(room):
        runner.run(example, out=failures.append)
    assert not failures, "".join(failures)
