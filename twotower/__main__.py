"""Run the command `twotower` by `python -m twotower`."""

import sys

from twotower.cli.main import main

sys.exit(main())
