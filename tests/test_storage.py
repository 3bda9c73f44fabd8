"""Folders and files appear whole or not at all."""

import os
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

from mesalens import InputError, LinearTransformer
from mesalens.files import new_folder, remove_unfinished, replace_file, require_writable
from mesalens.storage import load_arrays, save_arrays


def test_a_folder_appears_when_the_block_ends(tmp_path):
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "x").read_text() == "1"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "a" / "b") as folder:
        (folder / "x").write_text("1")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken_and_neighbours_stay(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "neighbour").write_text("mine")
    with new_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["neighbour", "out"]


def test_a_name_that_is_taken_meanwhile_loses_no_results(tmp_path):
    with (
        pytest.raises(InputError, match="cannot be written") as caught,
        new_folder(tmp_path / "out") as folder,
    ):
        (folder / "x").write_text("1")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("mine")
    assert str(folder) in str(caught.value)
    assert (folder / "x").read_text() == "1"
    assert (tmp_path / "out" / "mine").read_text() == "mine"


@pytest.mark.skipif(
    os.name != "posix", reason="other systems have no such names, or do not let go of folders"
)
def test_a_name_that_is_not_utf8_and_a_deleted_current_folder_are_refused_before_anything_is_computed(
    tmp_path, monkeypatch
):
    for folder in (
        tmp_path / os.fsdecode(b"bad\xff"),
        tmp_path / os.fsdecode(b"bad\xff") / "below",
    ):
        with pytest.raises(InputError, match=r"cannot be written.*UTF-8"):
            require_writable(folder)
        with pytest.raises(InputError, match="UTF-8"), new_folder(folder):
            pytest.fail("nothing may be computed")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match="out cannot be written"):
        require_writable(Path("out"))
    with pytest.raises(InputError, match="out cannot be written"), new_folder(Path("out")):
        pytest.fail("nothing may be computed")


@pytest.mark.parametrize("moment", ["fsync", "write", "rename"])
def test_a_file_holds_what_it_held_until_the_whole_of_the_new_is_written(
    tmp_path, monkeypatch, moment
):
    def fail(*_):
        assert file.read_text() == "old"
        raise OSError(28, "No space left on device")

    file = tmp_path / "x"
    file.write_text("old")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        owner, name = {
            "fsync": (os, "fsync"),
            "write": (Path, "write_bytes"),
            "rename": (Path, "replace"),
        }[moment]
        patch.setattr(owner, name, fail)
        replace_file(file, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and file.read_text() == "old"
    replace_file(file, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and file.read_text() == "new"


def test_what_was_left_unfinished_beside_files_is_removed_and_nothing_else(tmp_path):
    for name in (".x.safetensors.4711", ".settings.json.1"):
        (tmp_path / name).write_text("half")
    mine = {"x.1", ".hidden", ".x.conf", "x.safetensors"}
    for name in mine:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".folder.1").mkdir()
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == mine | {".folder.1"}


def test_arrays_come_back_bit_for_bit_under_their_names(tmp_path):
    model = LinearTransformer.initialise(3, layers=2, key=jax.random.key(0))
    save_arrays(model, tmp_path / "w.safetensors")
    template = eqx.filter_eval_shape(
        lambda: LinearTransformer.initialise(3, layers=2, key=jax.random.key(1))
    )
    loaded = load_arrays(template, tmp_path / "w.safetensors")
    assert isinstance(loaded, LinearTransformer)
    for name in ("W_Q", "W_K", "W_V", "P"):
        np.testing.assert_array_equal(getattr(loaded.weights, name), getattr(model.weights, name))
    other = LinearTransformer.initialise(4, layers=2, key=jax.random.key(0))
    with pytest.raises(InputError, match="another model"):
        load_arrays(other, tmp_path / "w.safetensors")
