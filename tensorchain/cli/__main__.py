"""`python -m tensorchain.cli`, where the script `tensorchain` is not on the path."""

import sys

from tensorchain.cli import main

sys.exit(main())
