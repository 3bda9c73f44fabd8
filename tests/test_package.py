"""The package can be built, installed and cited."""

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import mesalens

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mesalens"
BUILD = "import sys; from flit_core import buildapi; buildapi.build_wheel(sys.argv[1])"
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of the text at apache.org/licenses/LICENSE-2.0.txt."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from the tree, by the backend that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-c", BUILD, folder], cwd=ROOT, check=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(
            archive.read(f"mesalens-{mesalens.__version__}.dist-info/METADATA")
        )


def test_the_wheel_has_all_files_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (
        path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    assert names == {path.relative_to(SOURCE.parent).as_posix() for path in files}
    needed = {
        "__init__.pyi",
        "py.typed",
        "references.bib",
        "atlas/page.html.j2",
        "atlas/record.json",
        "explorer/page/index.html",
        "identification/page.html.j2",
        "studies/von_oswald_2023/__init__.py",
    }
    assert {f"mesalens/{name}" for name in needed} <= names


def test_the_source_distribution_has_the_tests_and_makes_the_same_wheel(wheel, tmp_path):
    build = "from flit_core import buildapi as b; import sys; b.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=ROOT, check=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    for name in ("tests/smoke.py", "docs", "Makefile", "constraints.txt", "CITATION.cff"):
        assert (source / name).exists()
    assert not list(source.rglob("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD, tmp_path], cwd=source, check=True)
    assert _checksums(next(tmp_path.glob("*.whl"))) == _checksums(wheel)


def _checksums(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {each.filename: each.CRC for each in archive.infolist()}


def test_the_wheel_has_the_licence_and_says_which_it_is(wheel, metadata):
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["License-File"] == "LICENSE"
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"mesalens-{mesalens.__version__}.dist-info/licenses/LICENSE").decode()
    assert "Copyright 2026 mesalens contributors" in text
    verbatim = text.replace("2026 mesalens contributors", "[yyyy] [name of copyright owner]")
    assert hashlib.sha256(verbatim.encode()).hexdigest() == APACHE_2


def test_the_metadata_are_complete(metadata):
    assert metadata["Version"] == mesalens.__version__ == "0.2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Author"] == metadata["Maintainer"] == "mesalens contributors"
    assert metadata["Summary"] and metadata["Keywords"] and metadata["Requires-Python"] == ">=3.11"
    classifiers = metadata.get_all("Classifier")
    assert {"Typing :: Typed", "Intended Audience :: Science/Research"} <= set(classifiers)
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in range(11, 15)} <= set(
        classifiers
    )
    assert any(name.startswith("Development Status ::") for name in classifiers)
    assert not any("License ::" in name for name in classifiers)  # PEP 639: the expression alone
    assert {"cluster", "dev", "docs", "test", "sklearn", "torch"} == set(
        metadata.get_all("Provides-Extra")
    )


def test_every_set_up_installs_a_pinned_version_of_all_that_is_required():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    required += project["optional-dependencies"]["dev"]
    required += project["optional-dependencies"]["docs"]
    plain = {re.match(r"[\w.-]+", each)[0].lower().replace("_", "-") for each in required} - {
        "mesalens"
    }
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert plain <= {name.lower().replace("_", "-") for name in pins}


def test_the_version_is_the_same_wherever_it_stands():
    version = mesalens.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    date = re.search(r"^date-released: (\d{4}-\d\d-\d\d)$", citation, re.MULTILINE)[1]
    assert re.search(rf"^version: {version}$", citation, re.MULTILINE)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.*)\] - (.*)$", changes, re.MULTILINE)[0] == (version, date)
    assert re.findall(r"^## \[(.*)\]", changes, re.MULTILINE)[:2] == ["Unreleased", version]


def test_the_changelog_has_the_sections_of_its_format():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for release in changes.split("\n## ")[1:]:
        sections = re.findall(r"^### (.*)$", release, re.MULTILINE)
        known = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
        assert sections == [each for each in known if each in sections]


def test_the_hooks_before_a_commit_are_the_linters_of_make_lint():
    hooks = re.findall(
        r"^ *entry: (.*)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE
    )
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert hooks == recipe.replace("\t", "").splitlines()


@pytest.mark.parametrize(
    ("place", "name", "near"),
    [("theory", "optimal_layr", "optimal_layer"), ("tasks", "Gausian", "Gaussian")],
)
def test_a_public_name_that_is_mistyped_is_an_error_with_the_names_that_are_like_it(
    place, name, near
):
    package = getattr(mesalens, place)
    with pytest.raises(AttributeError, match=f"{place} .*'{name}'; did you mean {near}") as caught:
        getattr(package, name)
    assert caught.value.obj is None  # so that Python suggests nothing once more
    with pytest.raises(AttributeError, match=r"no attribute 'theori'; did you mean theory\?"):
        mesalens.theori  # noqa: B018
    assert not hasattr(mesalens, "_repr_html_")


def test_the_program_cache_and_progress_need_no_import_of_their_own():
    assert {"program_cache", "progress"} <= set(mesalens.__all__)
    assert mesalens.program_cache.keep_programs and mesalens.progress.ProgressReport


@pytest.mark.slow
def test_the_wheel_runs_in_an_environment_of_its_own(wheel, tmp_path):
    """Without a network: the environment takes the libraries of this one, but not mesalens."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    python = tmp_path / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        wheel,
    ]
    subprocess.run(install, check=True, env=environment)

    (site,) = tmp_path.rglob("site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    smoke = [python, ROOT / "tests" / "smoke.py"]
    subprocess.run(smoke, cwd=empty, env=environment, check=True)
