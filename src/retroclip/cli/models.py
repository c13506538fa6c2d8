"""`retroclip models`"""

from retroclip.cli.options import Json
from retroclip.cli.terminal import print_json, print_table, say


def models(pattern: str = "*", /, *, json: Json = False) -> None:
    """List what can be named: `builtin`, open_clip's models (downloaded at first use), and architectures to train.

    An architecture of ours has no weights: it is what the `model` of a recipe for `retroclip train` names.

    Parameters
    ----------
    pattern
        A shell pattern, such as 'ViT-B-*'.
    """
    from retroclip.encoders import list_architectures, list_models

    names, untrained = list_models(pattern), list_architectures(pattern)
    if json:
        print_json(names + untrained)
    elif not names and not untrained:
        say(f"no model is called like {pattern!r}: a pattern such as '*{pattern}*' finds parts of names")
    else:
        print_table("Models", ["model"], [[name] for name in names])
        if untrained:
            print_table("Architectures to train", ["architecture"], [[name] for name in untrained])
        say("A directory, `hf-hub:org/name` and `ViT-B-32@file.pt` can be named as well.")
