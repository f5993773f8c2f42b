"""What the scripts share and no post mentions: flags, errors of one line, a report of the answers.

A script imports this first: it sets what TensorFlow reads when it is imported.
"""

from __future__ import annotations

import argparse
import decimal
import logging
import os
import re
import statistics
import sys
from typing import Any, Callable, Mapping, Optional, Sequence

# Both can be set by hand: TF_CPP_MIN_LOG_LEVEL=0 shows all that TensorFlow's C++ code logs.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')  # take GPU memory as it is needed

from estimator_inference import exports, tf

# Left out of Estimator's log, so that what the posts call the problem can be seen in it.
_NOISE = re.compile(
    'Using (default )?config|Instructions for updating|Signatures |[Aa]ssets |local_init_op'
    '|CheckpointSaverHook|checkpoint listeners|does not use tf.data.Dataset|global step \\(tf.train'
)
logging.getLogger('tensorflow').addFilter(lambda record: not _NOISE.search(str(record.msg)))


# What TensorFlow raises for files that are missing, damaged, or can't be written.
_OF_FILES = (
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,
    tf.errors.NotFoundError,
    tf.errors.OpError,  # itself, as the reader of checkpoints raises it
    tf.errors.PermissionDeniedError,
)


class Error(Exception):
    """What the user of a script can mend. Its text says what was found, and what to do."""


def parser(doc: Optional[str], **defaults: Any) -> argparse.ArgumentParser:
    """Returns a parser with a script's docstring and a flag for each keyword.

    A flag takes text where its default is a str, else a number of 1 or more.
    """
    raw = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=doc, formatter_class=raw)
    for name, default in defaults.items():
        flag, kind = '--' + name.replace('_', '-'), str if isinstance(default, str) else number
        made.add_argument(flag, type=kind, default=default, help='default: %(default)s')
    return made


def number(text: str) -> int:
    """Converts a flag's value to a number of 1 or more, for argparse."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected 1 or more, got {text}')
    return int(text)


def run(main: Callable[[], None]) -> None:
    """Runs a script's main; what a user can mend ends in one line on stderr and status 1.

    That is an Error, a file or directory that can't be read or written, a damaged export or
    checkpoint, and a checkpoint of another model. Ctrl-C is status 130. Everything else is a bug,
    and keeps its traceback.
    """
    tf.logging.set_verbosity(tf.logging.INFO)  # Estimator's log is part of the posts' story
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (Error, OSError, exports.DamagedExport) as error:
        sys.exit(f'{sys.argv[0]}: {error}')
    except (tf.errors.OpError, ValueError) as error:
        op_type = getattr(getattr(error, 'op', None), 'type', None)
        in_export = str(error).startswith('Could not load all requested variables from checkpoint')
        of_files = op_type in ('RestoreV2', 'SaveV2') or type(error) in _OF_FILES
        if not (of_files or in_export):
            raise
        sys.exit(f'{sys.argv[0]}: {exports.reason(error)}')


def params(model_dir: str, default: Optional[dict[str, int]] = None) -> dict[str, int]:
    """Returns the params of model_fn that the newest checkpoint was trained with.

    Without a checkpoint, returns `default`, or where that is None, raises an Error.
    """
    try:
        checkpoint = tf.train.latest_checkpoint(model_dir)
    except ValueError as error:
        raise Error(f'{model_dir}/checkpoint is damaged: {error}') from None
    if checkpoint is None and default is not None:
        return default
    if checkpoint is None:
        raise Error(f'no checkpoint in {model_dir}: run python train.py --model-dir {model_dir}')
    shapes = dict(tf.train.list_variables(checkpoint))
    if 'dense/kernel' not in shapes:
        raise Error(f'{checkpoint} has another model than model.py: {list(shapes)}')
    return {'hidden_units': shapes['hidden/kernel'][1]} if 'hidden/kernel' in shapes else {}


def device() -> str:
    """Returns what TensorFlow computes on: the name of the first GPU that it sees, or CPU."""
    for gpu in tf.config.experimental.list_physical_devices('GPU'):
        details = tf.config.experimental.get_device_details(gpu)
        return str(details.get('device_name', gpu.name))
    return 'CPU'


def report(script: str, predictions: Mapping[int, Any], times: Sequence[float]) -> None:
    """Prints the first predictions, the average time as the posts print it, and the median.

    Args:
      script: Its name.
      predictions: {number x: the prediction for it}: an array whose one element is 2x, or a dict
        with such an array under `predictions`, as post B's model with a hidden layer has.
      times: Seconds, for each call.

    Raises:
      Error: A prediction isn't 2x within 1%.
    """
    for nb, prediction in list(predictions.items())[:3]:
        outputs = prediction if isinstance(prediction, dict) else {'': prediction}
        texts = [key + ''.join(f' {x:.2f}' for x in outputs[key].flat) for key in outputs]
        print(f'f({nb}) =', ', '.join(texts).strip())
    for nb, prediction in predictions.items():
        answer = number_in(prediction)
        if not abs(answer - 2 * nb) <= 0.02 * nb:
            raise Error(f'f({nb}) = {answer}, expected {2 * nb}: train anew in another --model-dir')
    average = decimal.Decimal(f'{sum(times) / len(predictions):.1e}')  # of an example, two digits
    print(f'Average time in {script}: {average:f}s')
    median, first = seconds(statistics.median(times)), seconds(times[0])
    print(f'({len(times):,} calls: median {median}, the first {first})')


def number_in(prediction: Any) -> float:
    """Returns the number in a prediction, f([x, x]): see `report`."""
    output = prediction['predictions'] if isinstance(prediction, dict) else prediction
    return float(output.item())


def seconds(time: float) -> str:
    """Returns a time in seconds as a person reads it: 65 ms, 6.1 us."""
    value, unit = time * 1e6, 'us'
    if time > 0.95e-3:
        value, unit = time * 1e3, 'ms'
    if time > 0.95:
        value, unit = time, 's'
    return f'{value:.{1 if value < 9.95 else 0}f} {unit}'
