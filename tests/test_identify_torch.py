"""PyTorch modules are identified: a small GPT-2 on its training task, layouts, and bad input."""

import json
from pathlib import Path

import numpy as np
import pytest

from mesalens import cli

torch = pytest.importorskip("torch")
small_gpt2 = pytest.importorskip("small_gpt2")

pytest_plugins = ["small_training", "small_identification"]
pytestmark = pytest.mark.usefixtures("compiled_once")

MODEL = f"{small_gpt2.__file__}:model"
TRAINED_ON = (
    *("--dim", small_gpt2.DIM, "--context-length", small_gpt2.CONTEXT_LENGTH),
    *("--noise-variance", small_gpt2.NOISE_VARIANCE),
)
FEW = ("--prompts", 1024)

MODELS = '''
"""Modules as a user writes them."""
import torch
from torch import nn


class Step(nn.Module):
    """A step of gradient descent."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.5))

    def forward(self, tokens):
        xs, ys, query = tokens[:, 0:-1:2, :3], tokens[:, 1::2, 0], tokens[:, -1, :3]
        return self.rate * torch.einsum("bnd,bn,bd->b", xs, ys, query) / xs.shape[1]


class OfWidth(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def forward(self, tokens):
        return self.linear(tokens)


def step():
    return Step().eval()


def of_width(width=2):
    return OfWidth(width).eval()


def training():
    return Step()


def on_a_device():
    return Step().eval().to("cuda:99")


def encode(xs, ys, queries):
    tokens = xs.new_zeros(len(xs), 2 * xs.shape[1] + 1, xs.shape[2])
    tokens[:, 0:-1:2], tokens[:, -1], tokens[:, 1::2, :1] = xs, queries, ys
    return tokens


def bad_encoder(xs, ys, queries):
    return xs @ ys
'''


def run(capsys, *arguments):
    """Exit code, standard output and standard error of one command."""
    code = cli.main(["identify", *map(str, arguments)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err, captured.err
    return code, captured.out, captured.err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with the file of a user."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_modules.py").write_text(MODELS)
    return tmp_path


def check_small_gpt2(answer):
    """It learned nearly what ridge regression does; a verdict may say so, or that it is not exact."""
    assert answer["nearest"]["name"] in ("bayes", "ridge")
    assert answer["nearest"]["share"] > 0.95
    assert answer["name"] in (None, "bayes", "ridge")
    assert {each["name"] for each in answer["set"]} <= {"bayes", "ridge", "least-squares"}
    assert answer["deterministic"] is True
    # It was trained on contexts of 8 examples, and has no positions for longer ones
    assert "regime long" in answer["left_out"] or "long" not in answer["candidates"][0]["regimes"]


def test_the_small_gpt2_is_nearest_to_what_it_was_trained_to_do(brief, capsys):
    options = ("--adapter", "torch", "--layout", "interleaved", "--json")
    code, out, _ = run(capsys, MODEL, *TRAINED_ON, *FEW, *options)
    assert code == 0
    check_small_gpt2(json.loads(out))


@pytest.mark.slow
def test_the_small_gpt2_among_all_families_in_all_regimes(capsys, tmp_path):
    code, out, _ = run(capsys, MODEL, *TRAINED_ON, "--json", "--out", tmp_path / "answer")
    assert code == 0 and Path(tmp_path / "answer" / "index.html").is_file()
    answer = json.loads(out)
    check_small_gpt2(answer)
    assert "regime long" in answer["left_out"]


def test_an_encoder_in_a_file_is_a_layout(folder, brief, capsys):
    small = ("--dim", 3, "--context-length", 4, *FEW, "--json")
    answers = [
        json.loads(run(capsys, "my_modules.py:step", *small, *layout)[1])
        for layout in ((), ("--layout", "my_modules.py:encode"))
    ]
    distances = [
        [each["regimes"]["task"]["distance"] for each in answer["candidates"]] for answer in answers
    ]
    np.testing.assert_allclose(*distances, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("my_modules.py:training",), ("Step", "training mode", "eval()")),
        (("my_modules.py:on_a_device",), ("on_a_device could not be called",)),
        (("my_modules.py:of_width",), ("OfWidth", "3")),
        (("my_modules.py:step", "--layout", "rows"), ("layout", "'rows'")),
        (("my_modules.py:step", "--layout", "my_modules.py:nothing"), ("'nothing'",)),
        (("my_modules.py:step", "--layout", "nowhere.py:encode"), ("no file nowhere.py",)),
        (("my_modules.py:step", "--layout", "my_modules.py:bad_encoder"), ("bad_encoder",)),
        (("my_modules.py:step", "--set", "width=3"), ("'width'",)),
        (("my_modules.py:encode", "--adapter", "torch"), ("torch.nn.Module", "function")),
        (("my_modules.py:step", "--adapter", "sklearn"), ("fit", "predict")),
    ],
)
def test_bad_input_gets_a_sentence(arguments, words, folder, capsys):
    code, out, err = run(capsys, *arguments, "--dim", 3, "--context-length", 4)
    assert code == 2 and out == "", err
    sentence = err.splitlines()[-1]
    assert sentence.startswith("mesalens: ") and sentence[-1] in ".?"
    for word in words:
        assert word in sentence
