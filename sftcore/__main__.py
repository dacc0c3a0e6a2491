"""``python -m sftcore``, which is what launchers start."""

import sys

from sftcore.cli import main

sys.exit(main())
