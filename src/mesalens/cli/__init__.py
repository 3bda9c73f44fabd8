"""The command line: `mesalens list`, `reproduce`, `optimum`, `train`, `sweep` and `compare`.

Exit codes: 0 done as asked; 1 a claim failed or every run diverged; 2 wrong input, with one
sentence on standard error; 70 an error in mesalens itself; 130 and 143 stopped by Ctrl-C and
SIGTERM.
"""

from mesalens.cli._main import main as main
