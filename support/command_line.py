"""The decorator of a script's `main`: its flags, its directories, and its errors of one line."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import random
import re
import shlex
import sys
from typing import Any, Callable, NoReturn, Optional, Sequence

import tensorflow as tf

from support import checkpoints, errors
from estimator_inference import exports, remote
from support.directories import writing_to


def directory(text: str) -> str:
    """Converts a flag's value to the path of a directory, there or to be made, for argparse."""
    there = os.path.abspath(text)
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if not text or not os.path.isdir(there):
        raise argparse.ArgumentTypeError(
            f'expected a directory, and {there if text else text!r} is none'
        )
    return path(text)


def path(text: str) -> str:
    """Refuses, for argparse, the path of something that TensorFlow or a file system couldn't write or find again."""
    if re.search(r'[*?[\\]', text):
        raise argparse.ArgumentTypeError(
            f'expected a path without * ? [ \\, a pattern to TensorFlow, got {text!r:.99}'
        )
    encoded = os.fsencode(os.path.abspath(text))
    if (
        len(encoded) > 3800 or max(map(len, encoded.split(b'/'))) > 255
    ):  # 4095 at most, with names below it
        raise argparse.ArgumentTypeError(f'expected a shorter path, got {len(encoded):,} bytes')
    return text


def new_file(text: str) -> str:
    """Converts a flag's value to the path of a file to write, in a directory that is there, for argparse."""
    if (
        not text
        or os.path.isdir(path(text))
        or not os.access(os.path.dirname(text) or '.', os.W_OK)
    ):
        raise argparse.ArgumentTypeError(
            f'expected a file in a directory that can be written to, got {text!r}'
        )
    return text


def positive(text: str, most: int = 10**9, expected: str = '') -> int:
    """Converts a flag's value to an int from 1 to `most`, for argparse."""
    if not re.fullmatch(r'\d{1,10}', text) or not 0 < int(text) <= most:
        expected = expected or f'a whole number from 1 on, at most {most:,}'
        raise argparse.ArgumentTypeError(f'expected {expected}, got {text!r:.50}')
    return int(text)


port = functools.partial(positive, most=65535, expected='a port from 1 to 65535')
_MAKERS = {
    'model': 'train.py',
    'saved_model': 'export.py',
    'iris/model': '-m iris.train',
    'iris/saved_model': '-m iris.train',
}
_FLAGS: dict[str, dict[str, Any]] = {
    'model_dir': dict(
        metavar='DIR', type=directory, help='where the checkpoints are (default: %(default)s)'
    ),
    'export_dir': dict(
        metavar='DIR', type=directory, help='where the exports are (default: %(default)s)'
    ),
    'examples': dict(
        metavar='N', type=positive, help='how many numbers to predict (default: %(default)s)'
    ),
    'batch': dict(
        metavar='N',
        type=functools.partial(positive, most=10**6),
        help='how many of them in a call (default: %(default)s)',
    ),
    'steps': dict(
        metavar='N',
        type=positive,
        help='train until the step N, from the beginning on (default: 1000, with a hidden layer 3000)',
    ),
    'seed': dict(
        metavar='N',
        type=int,
        help='of the initial weights and the order of the examples (default: %(default)s)',
    ),
    'hidden_units': dict(
        metavar='N',
        type=functools.partial(positive, most=10**6),
        help='put a hidden layer of N units in (default: none, or what the model has)',
    ),
    'json': dict(metavar='FILE', type=new_file, help='write the full figures there'),
    'device': dict(
        choices=('auto', 'cpu', 'gpu'),
        default='auto',
        help='auto: the GPU, if there is one (default: %(default)s)',
    ),
}


def script(
    reads: Optional[str] = None,
    writes: Optional[str] = None,
    cluster: bool = False,
    device: bool = True,
    **flags: Any,
) -> Callable:
    """Makes a `main(args)` a `main(argv=None)`, which parses flags and turns faults into a line and exit status 1.

    Args:
      reads: The default of a directory that has to hold something: '.../model' a whole checkpoint, which sets
        `args.params`, '.../saved_model' exports. It is --model-dir or --export-dir.
      writes: Likewise, of a directory that nobody else may write to meanwhile.
      cluster: Whether it obeys TF_CONFIG. Others train and predict on this machine alone.
      device: Whether it runs a model, on the device that --device names.
      **flags: {name: default}, or {name: arguments for argparse} for a flag that is of this script alone.
    """
    directories = {_directory(default): default for default in (reads, writes) if default}

    def decorate(main):
        @functools.wraps(main)
        def run(argv: Optional[Sequence[str]] = None) -> None:
            errors.raise_on_interrupt()
            parser = Parser(sys.modules[main.__module__].__doc__)
            for name, default in {
                **directories,
                **flags,
                **({'device': 'auto'} if device else {}),
            }.items():
                options = (
                    default if isinstance(default, dict) else {**_FLAGS[name], 'default': default}
                )
                parser.add_argument('--' + name.replace('_', '-'), **options)
            args = parser.parse_args(argv)
            if not cluster:
                os.environ.pop('TF_CONFIG', None)
            with _faults_as_lines(args, reads, writes), contextlib.ExitStack() as stack:
                _prepare(args, reads, writes, stack)
                main(args)

        return run

    return decorate


def _prepare(args, reads, writes, stack):
    if hasattr(args, 'device'):
        args.device = _use(args.device)
    if hasattr(args, 'seed'):
        args.seed %= 2**31
        random.seed(
            args.seed
        )  # Keras's initializers draw their seeds there, and not from the RunConfig
    if writes and not reads:  # first, since a checkpoint that is being written looks damaged
        stack.enter_context(writing_to(getattr(args, _directory(writes))))
    needed = reads or writes
    if needed and _directory(needed) == 'model_dir':
        checkpoint = checkpoints.latest(args.model_dir)
        if reads and not checkpoint:
            raise FileNotFoundError(f'no checkpoint in {args.model_dir}')
        args.params = checkpoints.params(checkpoint, getattr(args, 'hidden_units', None))
        if getattr(args, 'steps', 0) is None:
            args.steps = 3000 if args.params else 1000
        tf.get_logger().setLevel('INFO')  # Estimator's log is part of the story
    elif reads and not getattr(args, 'remote', None):
        exports.latest(args.export_dir)  # raises FileNotFoundError where there is none
    if writes and reads:
        stack.enter_context(writing_to(getattr(args, _directory(writes))))


def _directory(default):
    """Returns the name in `args` of the directory that a script reads or writes, which is `default` otherwise."""
    return 'model_dir' if os.path.basename(default) == 'model' else 'export_dir'


def _use(device):
    """Lets this process use the device that --device asks for, and returns its name."""
    if device == 'cpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = (
            '-1'  # TensorFlow looks for GPUs at its first use, after this
        )
    gpus = tf.config.list_physical_devices('GPU')
    if device == 'gpu' and not gpus:
        raise errors.Fault(
            f'--device gpu: TensorFlow sees no GPU: {errors.install("gpu")}; or leave --device out '
            '(TF_CPP_MIN_LOG_LEVEL=0 says more)'
        )
    return (
        tf.config.experimental.get_device_details(gpus[0]).get('device_name', gpus[0].name)
        if gpus
        else 'CPU'
    )


@contextlib.contextmanager
def _faults_as_lines(args, reads, writes):
    """Ends the script with a line for what a person can mend; errors of the code itself keep their traceback."""
    try:
        yield
    except (FileNotFoundError, exports.DamagedExport, checkpoints.DamagedCheckpoint) as error:
        damaged = isinstance(error, checkpoints.DamagedCheckpoint)
        default = (reads or writes) if damaged else reads
        if default:
            given = getattr(args, _directory(default))
            flags = (
                () if given == default else ('--' + _directory(default).replace('_', '-'), given)
            )
            sys.exit(
                f'{errors.reason(error)}: {f"move {given} away and " if damaged else ""}run '
                f'{errors.command(_MAKERS[default], *flags)}'
            )
        elif damaged:
            sys.exit(f'{error}: choose another --model-dir')
        raise
    except (errors.Fault, remote.RemoteError) as error:
        sys.exit(str(error))
    except (
        tf.errors.NotFoundError,
        tf.errors.InvalidArgumentError,
        OSError,
        KeyError,
        RuntimeError,
        ValueError,
    ) as error:
        found = re.search('Key .* not found in checkpoint|.*shape.*', str(error))
        if found and 'checkpoint' in str(error) and hasattr(args, 'model_dir'):
            sys.exit(
                f'{args.model_dir} has a checkpoint of another network than model_fn builds ({found[0]:.200}): '
                'choose another --model-dir'
            )
        if isinstance(error, BrokenPipeError) or not reads or _directory(reads) != 'export_dir':
            raise
        cli = os.path.join(os.path.dirname(errors.from_here(sys.executable)), 'saved_model_cli')
        export_dir = exports.latest(args.export_dir)
        what = (
            f'{export_dir} gives no {error}'
            if isinstance(error, KeyError)
            else errors.reason(error)
        )
        sys.exit(
            f'{what}: to see what it takes and gives, run '
            f'{shlex.join([cli, "show", "--all", "--dir", export_dir])}'
        )


class Parser(argparse.ArgumentParser):
    """An ArgumentParser for a script: its docstring is the description, its errors are one line."""

    def __init__(self, description: Optional[str]) -> None:
        super().__init__(
            prog=errors.name(),
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        for text in sys.argv[1:] if args is None else args:
            if re.search(
                '[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]', text
            ):  # a surrogate: bytes that aren't UTF-8
                self.error(f'expected text in UTF-8 without control characters, got {text!r:.200}')
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'{self.prog}: {message} (see {errors.command(self.prog, "--help")})\n')
