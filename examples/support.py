"""What `from support import script` finds where a script here is run by its path: so it says how to run it."""

import pathlib
import shlex
import sys

script = pathlib.Path(sys.argv[0]).absolute()
room = script.parent
sys.exit(
    f'{sys.argv[0]} needs the repository around it: run cd {shlex.quote(str(room.parent))} && '
    f'{shlex.quote(sys.executable)} -m {room.name}.{script.stem}'
)
