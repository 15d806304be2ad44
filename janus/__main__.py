"""`python -m janus`: the command `janus`, also for `torchrun -m janus train RECIPE`."""

import sys

from janus.cli import main

sys.exit(main())
