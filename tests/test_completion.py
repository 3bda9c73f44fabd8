"""`mesalens --print-completion SHELL`: the shell completes commands, options, names and files."""

import shutil
import subprocess
from pathlib import Path

import pytest

from mesalens.cli import main

ASK = """
source completion
complete_words() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _shtab_mesalens mesalens "${@: -1}" "${@: -2:1}"
    echo "${COMPREPLY[*]}"
}
complete_words mesalens id
complete_words mesalens train --noise-v
complete_words mesalens train --functions ""
complete_words mesalens identify my
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_names_and_files(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--print-completion", "bash"]) == 0
    Path("completion").write_text(capsys.readouterr().out, encoding="utf-8")
    Path("my_model.py").touch()
    asked = subprocess.run(["bash", "-c", ASK], capture_output=True, text=True, check=True)
    command, option, names, file = asked.stdout.splitlines()
    assert (command, option, file) == ("identify", "--noise-variance", "my_model.py")
    assert {"linear", "network", "custom"} <= set(names.split())


def test_another_shell_is_refused(capsys):
    assert main(["--print-completion", "csh"]) == 2
    assert "csh" in capsys.readouterr().err
