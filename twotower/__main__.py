"""`python -m twotower` is the command `twotower`."""

import sys

from twotower.cli.main import main

sys.exit(main())
