"""`python -m retroclip` is the same as `retroclip`."""

import sys

from retroclip.cli import main

sys.exit(main())
