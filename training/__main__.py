"""`python -m training` is the `fusescope` command."""

from training.cli import main

main()
