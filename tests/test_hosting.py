"""What a public host reads: workflows, forms for issues, and the community's files."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(
    file for file in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if file.stem != "config"
)
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def content(file):
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def steps(file):
    return [step for job in content(file)["jobs"].values() for step in job["steps"]]


def test_there_is_a_workflow_for_tests_documentation_and_releases():
    assert [file.stem for file in WORKFLOWS] == ["docs", "release", "tests"]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_is_written_as_the_host_wants_it(file):
    workflow = content(file)
    assert set(workflow) - {"concurrency"} == {"name", True, "permissions", "jobs"}  # True is `on`
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job["steps"]
        assert set(job.get("needs", "").split()) <= set(workflow["jobs"])
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step["uses"])


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_calls_targets_of_make(file):
    made = [
        step["run"].split()[1] for step in steps(file) if step.get("run", "").startswith("make")
    ]
    assert made and set(made) <= TARGETS
    others = [step["run"] for step in steps(file) if not step.get("run", "make").startswith("make")]
    assert all(command.startswith("test -f") for command in others)


def test_the_tests_run_with_every_python_that_the_metadata_name():
    project = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r"Programming Language :: Python :: (3\.\d+)", project)
    matrix = content(ROOT / ".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == named
    assert matrix["system"] == ["ubuntu-latest", "macos-latest"]


@pytest.mark.parametrize("file", FORMS, ids=lambda file: file.stem)
def test_a_form_asks_something_and_says_what_is_needed(file):
    form = content(file)
    assert {"name", "description", "labels", "body"} == set(form)
    names = [field["id"] for field in form["body"]]
    assert len(set(names)) == len(names)
    for field in form["body"]:
        assert field["type"] in ("input", "textarea") and field["attributes"]["label"]
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_there_are_forms_for_what_people_come_with():
    assert {file.stem for file in FORMS} == {"bug", "wrong-number", "new-study", "question"}


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", ".github/PULL_REQUEST_TEMPLATE.md"])
def test_what_a_contributor_is_told_exists(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert set(re.findall(r"`make ([\w-]+)", text)) <= TARGETS
    for place in re.findall(r"`((?:src|tests|docs|benchmarks)/[^`]*)`", text):
        assert "NAME" in place or (ROOT / place.split()[0]).exists(), place
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / link).exists(), link
