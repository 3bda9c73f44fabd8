"""The README's example runs as written, and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_examples_print_what_the_readme_says():
    examples = re.findall(r"```python\n(.*?)```\s+It prints\s+```text\n(.*?)```", README, flags=re.DOTALL)
    assert len(examples) == README.count("```python") == 2
    names: dict = {}
    for code, said in examples:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), names)
        numbers, expected = ([float(x) for x in re.findall(r"\d+\.\d+", text)] for text in (printed.getvalue(), said))
        assert re.sub(r"\d+\.\d+", "#", printed.getvalue()) == re.sub(r"\d+\.\d+", "#", said)
        # Another machine rounds otherwise, and training amplifies that; it does not change what the lines say
        assert all(abs(a - b) < 0.01 for a, b in zip(numbers, expected, strict=True)), (numbers, expected)


def test_what_the_readme_points_to_is_there():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
