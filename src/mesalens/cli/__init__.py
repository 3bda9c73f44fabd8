"""The command line; `mesalens --help` lists the commands.

Exit codes:

| code | meaning |
|---|---|
| 0 | success |
| 1 | a claim failed, or every training run diverged |
| 2 | invalid input; one sentence on standard error says what to change |
| 70 | an error in mesalens or in a file of yours, with a traceback |
| 130, 143 | stopped by Ctrl-C, by SIGTERM |
"""

from mesalens.cli._main import main as main
