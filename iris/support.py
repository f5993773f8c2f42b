"""What `from support import script` finds where a script here is run by its path: so it says how to run it."""
import os
import sys

_script = os.path.abspath(sys.argv[0])
_root = os.path.dirname(os.path.dirname(_script))
sys.exit(f'{sys.argv[0]} needs the repository around it: run cd {_root} && {sys.executable} -m '
         f'{os.path.basename(os.path.dirname(_script))}.{os.path.splitext(os.path.basename(_script))[0]}')
