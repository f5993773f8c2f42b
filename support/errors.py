"""How a script ends where it can't go on: a line that says what is wrong, and a command to run next.

Importing this makes Ctrl-C, a missing package and a reader of the output that goes away a line too.
"""

from __future__ import annotations

import _thread
import os
import re
import shlex
import shutil
import signal
import sys
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Fault(Exception):
    """Something that a person can mend: the text says what was expected and what came."""


class WrongAnswer(Fault):
    """A prediction that isn't 2x."""


def command(script: str, *flags: str) -> str:
    """Returns a command that runs 'train.py' or '-m iris.train' when it is pasted where the user stands now."""
    python, found = 'python', shutil.which('python') or os.devnull
    # The python of a virtual environment is a link to that which made it, and has other packages all the same.
    if os.path.dirname(found) != os.path.dirname(sys.executable) or not os.path.samefile(
        found, sys.executable
    ):
        python = from_here(sys.executable)
    here = os.path.samefile(os.getcwd(), ROOT)
    if script.startswith('-m '):
        words = ['env', f'PYTHONPATH={ROOT}'] * (not here) + [python, *script.split()]
    else:
        words = [python, script if here else from_here(os.path.join(ROOT, script))]
    return shlex.join([*words, *flags])


def install(extra: str) -> str:
    """Returns the command that installs what an extra of pyproject.toml names, for this Python."""
    repository = '.' if os.path.samefile(os.getcwd(), ROOT) else ROOT
    return shlex.join([from_here(sys.executable), '-m', 'pip', 'install', f'{repository}[{extra}]'])


def from_here(path: str) -> str:
    """Returns a path relative to where the user stands, if it is below."""
    relative = os.path.relpath(path)
    return path if relative.startswith('..') else relative


def name() -> str:
    """Returns what follows `python` in the command that runs this script: train.py, or -m iris.train."""
    spec = sys.modules['__main__'].__spec__
    return f'-m {spec.name}' if spec else os.path.basename(sys.argv[0])


def reason(error: BaseException) -> str:
    """Returns the line of an error that says what is wrong: TensorFlow's texts have it between stack traces."""
    if isinstance(error, shutil.Error):  # copytree's: a list of (from, to, reason)
        return f'{error.args[0][0][2]:.300}'
    found = re.search('^Node: .*\n(.+)', str(error), re.M) or re.search('(.+)', str(error))
    return f'{found[1]:.300}' if found else type(error).__name__


def _excepthook(kind, error, traceback):
    if kind is KeyboardInterrupt:
        print(f'{name()}: interrupted', file=sys.stderr)
    elif issubclass(kind, ImportError):  # those of tf1.py and remote.py say themselves what to do
        hint = f': run {shlex.join([sys.executable, "-m", "pip", "install", "-r", f"{ROOT}/requirements.txt"])}'
        print(f'{name()}: {error}{hint if kind is ModuleNotFoundError else ""}', file=sys.stderr)
    elif kind is BrokenPipeError:  # python compare.py | head
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # where Python then writes what is left at exit
    else:
        sys.__excepthook__(kind, error, traceback)


def _unraisablehook(unraisable):
    if (
        unraisable.exc_type is KeyboardInterrupt
    ):  # Python drops it in a destructor, so it is sent again
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(unraisable)


def _end_at_once(*_):  # Ctrl-C, while there is nothing to clean up
    os.write(_stderr, f'{name()}: interrupted\n'.encode())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def raise_on_interrupt() -> None:
    """Makes Ctrl-C a KeyboardInterrupt from here on: there is something to clean up."""
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


sys.excepthook, sys.unraisablehook = _excepthook, _unraisablehook
# While modules are imported a KeyboardInterrupt may be lost: in a destructor, and in a module in C++, which makes an
# ImportError of it, which TensorFlow catches where a package is optional.
_stderr = os.dup(2)  # quiet.py has TensorFlow write elsewhere meanwhile
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end_at_once)
