"""`retroclip models`"""

from retroclip.cli.options import Json
from retroclip.cli.terminal import print_json, print_table, say


def models(pattern: str = "*", /, *, json: Json = False) -> None:
    """List the model references that can be loaded by name: `builtin`, and open_clip's (downloaded at first use).

    Parameters
    ----------
    pattern
        A shell pattern, such as 'ViT-B-*'.
    """
    from retroclip.encoders import list_models

    names = list_models(pattern)
    if json:
        print_json(names)
    else:
        print_table("Models", ["model"], [[name] for name in names])
        say("A directory, `hf-hub:org/name` and `ViT-B-32@file.pt` can be named as well.")
