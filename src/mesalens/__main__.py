"""`python -m mesalens`."""

import sys

from mesalens.cli import main

sys.exit(main())
