"""`python -m retrolit` is the console script."""

import sys

from retrolit.cli.main import main

sys.exit(main())
