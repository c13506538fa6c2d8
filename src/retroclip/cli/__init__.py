"""The command line: one thin module per verb; the work is done in the other rooms."""

from retroclip.cli.app import main

__all__ = ["main"]
