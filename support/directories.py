"""A directory to write to, that nobody else writes to meanwhile, and where nothing half-written stays behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from typing import Iterator

from tensorflow import errors

from support.errors import Fault, reason

# As TensorFlow names exports, checkpoints and other files until they are whole.
_TEMPORARY = re.compile(r'temp-\d+|.+-\d+_temp|.+\.tmp[0-9a-f]{32}')


@contextlib.contextmanager
def writing_to(directory: str) -> Iterator[None]:
    """Makes a directory and keeps other scripts from writing there meanwhile.

    Raises:
      Fault: Another script writes there, or writing fails, on a full disk for instance. What TensorFlow has half
        written by then is removed.
    """
    try:
        os.makedirs(directory, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(None, 'no permission to write')
        descriptor = os.open(directory, os.O_RDONLY)
        fcntl.flock(
            descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB
        )  # until it is closed, or this process killed
    except BlockingIOError:
        raise Fault(
            f'another script writes to {directory} now: wait until it has ended, or choose another directory'
        ) from None
    except OSError as error:
        raise Fault(
            f"can't write to {directory} ({error.strerror}): choose another directory"
        ) from None
    before, half_written = set(os.listdir(directory)), _TEMPORARY
    try:
        yield
    except BrokenPipeError:  # of print
        raise
    except (OSError, errors.PermissionDeniedError, errors.ResourceExhaustedError) as error:
        half_written = re.compile(
            rf'{_TEMPORARY.pattern}|\d+'
        )  # an export that didn't get its checksum
        raise Fault(f'stopped at work in {directory}: {reason(error)}') from error
    finally:
        for name in set(os.listdir(directory)) - before:
            if half_written.fullmatch(name):
                path = os.path.join(directory, name)
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        os.close(descriptor)
