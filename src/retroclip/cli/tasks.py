"""`retroclip tasks`"""

from retroclip.cli.options import Json
from retroclip.cli.terminal import print_json, print_table


def tasks(*, json: Json = False) -> None:
    """List the tasks that ship with retroclip. Your own is a YAML file: `name: pets`, `classes: [beagle, pug]`."""
    from retroclip.tasks import Task, catalogue

    rows = []
    for name in catalogue():
        task = Task.load(name)
        counts = {"classes": len(task.classes), "templates": len(task.templates)}
        rows.append({"task": name, "protocol": task.protocol, **counts, "metric": task.metric})
    if json:
        print_json(rows)
    else:
        print_table("Tasks", ["task", "protocol", "classes", "templates", "metric"], [row.values() for row in rows])
