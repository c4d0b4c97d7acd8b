"""`python -m zoo`, also what `accelerate launch -m zoo train ...` starts."""

import sys

from zoo.cli import main

sys.exit(main())
