"""What the scripts share and no post mentions: flags, one-line errors, locks, checks of a checkpoint, timing.

A script imports this first, so that Ctrl-C is a line, and not a traceback, while TensorFlow is imported too, and so
that TensorFlow's start-up noise stays off the screen.
"""

from __future__ import annotations

import sys

from support import errors  # noqa: F401  first: from here on Ctrl-C is a line

if {'-h', '--help'} & set(sys.argv[1:]) and sys.argv[0].endswith('.py'):
    # The help needs neither, and answers at once without them; `main` will not run.
    from unittest import mock

    for _name in (
        'numpy',
        'tensorflow',
        'tensorflow.compat',
        'tensorflow.compat.v1',
        'estimator_inference',
    ):
        sys.modules[_name] = mock.MagicMock()
else:
    from support import quiet  # noqa: F401

from support.command_line import script
from support.timing import report

__all__ = ['report', 'script']
