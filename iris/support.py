"""What `from support import script` finds where a script here is run by its path: so it says how to run it."""
import pathlib
import sys

script = pathlib.Path(sys.argv[0]).absolute()
room = script.parent
sys.exit(f'{sys.argv[0]} needs the repository around it: run cd {room.parent} && {sys.executable} -m '
         f'{room.name}.{script.stem}')
