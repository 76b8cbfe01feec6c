"""`python -m twotower` is the command `twotower`."""

import sys

from twotower.cli import main

sys.exit(main())
