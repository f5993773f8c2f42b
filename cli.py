"""The command line that all scripts share: flags that mean the same everywhere, and errors of one line."""
from __future__ import annotations

import _thread
import argparse
import contextlib
import fcntl
import os
import re
import shutil
import sys
import threading
from typing import Any, Iterator, NoReturn, Optional


def directory(text: str) -> str:
    """Converts a flag's value to the path of a directory, there or to be made, for argparse."""
    there = os.path.abspath(text)
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if not text or not os.path.isdir(there):
        raise argparse.ArgumentTypeError(f'expected a directory, and {there if text else text!r} is none')
    return path(text)


def path(text: str) -> str:
    """Refuses, for argparse, the path of something that TensorFlow couldn't write or find again."""
    if re.search(r'[*?[\\]', text.replace(os.sep, '/')):
        raise argparse.ArgumentTypeError(f'expected a path without * ? [ \\, a pattern to TensorFlow, got {text!r:.99}')
    return short(text)


def short(text: str) -> str:
    """Refuses, for argparse, a path that a file system wouldn't take."""
    encoded = os.fsencode(os.path.abspath(text))
    if len(encoded) > 3800 or max(map(len, encoded.split(os.fsencode(os.sep)))) > 255:  # of 4095, for names below it
        raise argparse.ArgumentTypeError(f'expected a shorter path, got {len(encoded):,} bytes')
    return text


def positive(text: str, most: int = 10 ** 9) -> int:
    """Converts a flag's value to an int from 1 to `most`, for argparse."""
    if not re.fullmatch(r'\d{1,10}', text) or not 0 < int(text) <= most:
        raise argparse.ArgumentTypeError(f'expected a whole number from 1 on, at most {most:,}, got {text!r:.50}')
    return int(text)


def new_file(text: str) -> str:
    """Converts a flag's value to the path of a file to write, in a directory that is there, for argparse."""
    if not text or os.path.isdir(short(text)) or not os.access(os.path.dirname(text) or '.', os.W_OK):
        raise argparse.ArgumentTypeError(f'expected a file in a directory that can be written to, got {text!r}')
    return text


def picture(text: str) -> str:
    """Converts a flag's value to the path of a picture to write, for argparse."""
    if not text.endswith(('.svg', '.png')):
        raise argparse.ArgumentTypeError(f'expected a file that ends in .svg or .png, got {text!r}')
    return new_file(text)


_FLAGS: dict[str, dict[str, Any]] = {
    '--model-dir': dict(metavar='DIR', type=directory, default='model', help='where the checkpoints are'),
    '--export-dir': dict(metavar='DIR', type=directory, default='saved_model', help='where the exports are'),
    '--examples': dict(metavar='N', type=positive, default=10_000, help='how many numbers to predict'),
    '--device': dict(choices=('auto', 'cpu', 'gpu'), default='auto', help='auto: the GPU if there is one'),
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser for a script: its docstring is the description, its errors are one line."""

    def __init__(self, description: Optional[str]) -> None:
        super().__init__(prog=_script(), description=description, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(self, *names: str, **changes: Any) -> None:
        """Adds flags that several scripts share; `changes` to their options, a default say, are this script's own."""
        for name in names:
            options = {**_FLAGS[name], **changes}
            self.add_argument(name, **{**options, 'help': options['help'] + ' (default: %(default)s)'})

    def parse_known_args(self, args=None, namespace=None):  # noqa: ANN201  argparse's
        for text in sys.argv[1:] if args is None else args:
            if re.search('[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]', text):  # a surrogate: bytes that aren't UTF-8
                self.error(f'expected text in UTF-8 without control characters, got {text!r:.200}')
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'{self.prog}: {message} (see python {self.prog} --help)\n')


@contextlib.contextmanager
def writing_to(directory: str) -> Iterator[None]:
    """Makes a directory and keeps other scripts from writing there meanwhile.

    Ends the script with a line where one does, or where writing fails, on a full disk for instance. What TensorFlow has
    half written by then is removed.
    """
    try:
        os.makedirs(directory, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(None, 'no permission to write')
        descriptor = os.open(directory, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed, or this process killed
    except BlockingIOError:
        sys.exit(f'another script writes to {directory} now: wait until it has ended, or choose another directory')
    except OSError as error:
        sys.exit(f"can't write to {directory} ({error.strerror}): choose another directory")
    from tensorflow import errors  # here, for this module is imported first
    before = set(os.listdir(directory))
    try:
        yield
    except (OSError, errors.PermissionDeniedError, errors.ResourceExhaustedError) as error:
        sys.exit(f'stopped at work in {directory}: {reason(error)}')
    finally:
        for name in set(os.listdir(directory)) - before:
            if _TEMPORARY.fullmatch(name):
                path = os.path.join(directory, name)
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        os.close(descriptor)


# As TensorFlow names exports, checkpoints and other files until they are whole.
_TEMPORARY = re.compile(r'temp-\d+|.+-\d+_temp|.+\.tmp[0-9a-f]{32}')


def reason(error: Exception) -> str:
    """Returns the line of an error that says what is wrong: TensorFlow's texts have it between stack traces."""
    if isinstance(error, shutil.Error):  # copytree's: a list of (from, to, reason)
        return f'{error.args[0][0][2]:.300}'
    found = re.search('^Node: .*\n(.+)', str(error), re.M) or re.search('(.+)', str(error))
    return f'{found[1]:.300}' if found else type(error).__name__


def _script() -> str:
    """Returns what follows `python` in the command that runs this script: train.py, or -m iris.train."""
    spec = sys.modules['__main__'].__spec__
    return f'-m {spec.name}' if spec else os.path.basename(sys.argv[0])


def _excepthook(kind, error, traceback):
    if kind is KeyboardInterrupt:
        print(f'{_script()}: interrupted', file=sys.stderr)
    elif issubclass(kind, ImportError):  # tf1.py's say what to do
        hint = f' in {sys.executable}: run .venv/bin/python after make run, or pip install -r requirements.txt'
        print(f'{_script()}: {error}{hint if kind is ModuleNotFoundError else ""}', file=sys.stderr)
    elif kind is BrokenPipeError:  # python compare.py | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
    else:
        sys.__excepthook__(kind, error, traceback)


def _unraisablehook(unraisable):
    if unraisable.exc_type is KeyboardInterrupt:  # in a destructor, where Python drops it: so once more, after that
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(unraisable)


# Ctrl-C ends a script with a line instead of a traceback, also while TensorFlow is imported: so import this first.
sys.excepthook, sys.unraisablehook = _excepthook, _unraisablehook
