"""`python -m training` is the `fusescope` command; with a YAML file alone it trains."""

import sys

from training.cli import main

if len(sys.argv) > 1 and sys.argv[1].endswith((".yaml", ".yml")):
    sys.argv.insert(1, "train")
main()
