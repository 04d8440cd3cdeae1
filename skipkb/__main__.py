"""``python -m skipkb`` is the command ``skipkb``."""

import sys

from skipkb.cli import main

sys.exit(main())
