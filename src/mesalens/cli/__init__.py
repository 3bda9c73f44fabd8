"""The command line: `mesalens list`, `reproduce`, `optimum`, `train`, `compare`.

Exit codes: 0 all as asked; 1 a claim failed; 2 wrong input, with one sentence on standard error.
"""

from mesalens.cli.main import main as main
