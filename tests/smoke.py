"""What an installed mesalens has to do.

Run with the Python of its environment, in an empty folder: `python …/tests/smoke.py`. It needs
nothing but what `pip install mesalens` brings.
"""

import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import mesalens

SMALL = "--dim 2 --context-length 4"


def run(command: str) -> str:
    """What a command of this environment prints."""
    program = Path(sys.executable).parent / "mesalens"
    done = subprocess.run([program, *command.split()], capture_output=True, text=True)
    print(f"mesalens {command}: exit code {done.returncode}", flush=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


assert Path(mesalens.__file__).is_relative_to(sys.prefix), mesalens.__file__
version = metadata.version("mesalens")
assert mesalens.__version__ == version
for name in ("py.typed", "__init__.pyi", "atlas/page.html.j2", "identification/page.html.j2"):
    assert resources.files("mesalens").joinpath(name).is_file(), name
assert all(getattr(mesalens, name) is not None for name in mesalens.__all__)

assert run("--version") == f"mesalens {version}\n"
assert "von-oswald-2023" in run("list")
assert "Wu, Jingfeng" in run("cite wu-2024")
assert "risk" in run("optimum --dim 3")
run(f"train {SMALL} --steps 20 --batch-size 16 --every 10 --seeds 1 --out run")
assert "ridge" in run("compare run --reference best-descent ridge penalty=1 --prompts 100")
Path("own.py").write_text("def predict(xs, ys, queries):\n    return 0 * ys[:, 0]\n")
assert "context" in run(f"identify own.py:predict {SMALL} --prompts 1024 --out answer")
assert "@misc{mesalens" in Path("answer/index.html").read_text(encoding="utf-8")
assert "nearest: one step of preconditioned gradient descent" in run("identify run --prompts 1024")
print(f"mesalens {version} works.")
