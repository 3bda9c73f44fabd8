"""`python -m mesalens.cli`."""

import sys

from mesalens.cli import main

sys.exit(main())
