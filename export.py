"""Exports a checkpoint as a SavedModel, which needs neither model.py nor Estimator any more.

    python export.py

writes the newest checkpoint to saved_model/<timestamp>/.
"""
from __future__ import annotations

import os
import shutil
import sys
from typing import Callable, Optional, Sequence

import cli
import model
import predictor
from tf1 import tf


def serving_input_receiver_fn() -> tf.estimator.export.ServingInputReceiver:
    """Returns the posts' receiver: one placeholder `number`, float32 [None, 1], and the features [None, 2] of it."""
    number = tf.placeholder(tf.float32, [None, 1], name='number')
    return tf.estimator.export.ServingInputReceiver(model.number_to_features(number), {'number': number})


def raw_receiver_fn() -> tf.estimator.export.ServingInputReceiver:
    """Returns a receiver of the features themselves: `feature`, float32 [None, 2]."""
    feature = tf.placeholder(tf.float32, [None, 2], name='feature')
    return tf.estimator.export.build_raw_serving_input_receiver_fn({'feature': feature})()


def example_receiver_fn() -> tf.estimator.export.ServingInputReceiver:
    """Returns a receiver of serialized `tf.train.Example`s with a float `number`: `examples`, string [None]."""
    spec = {'number': tf.FixedLenFeature([1], tf.float32)}
    receiver = tf.estimator.export.build_parsing_serving_input_receiver_fn(spec)()
    return tf.estimator.export.ServingInputReceiver(model.number_to_features(receiver.features['number']),
                                                    receiver.receiver_tensors)


RECEIVERS = {'number': serving_input_receiver_fn, 'raw': raw_receiver_fn, 'example': example_receiver_fn}


def export_model(estimator: tf.estimator.Estimator, export_dir_base: str, serving_input_receiver_fn: Callable,
                 checkpoint: Optional[str] = None) -> str:
    """Exports a checkpoint, the newest by default, to export_dir_base/<timestamp>/, with a checksum; returns that path.

    Ends the script with a line where it can't be written.
    """
    with cli.writing_to(export_dir_base):
        export_dir = os.fsdecode(estimator.export_saved_model(export_dir_base, serving_input_receiver_fn,
                                                              checkpoint_path=checkpoint))
        try:
            predictor.write_checksum(export_dir)
        except BaseException:
            shutil.rmtree(export_dir)
            raise
    return export_dir


def remove_old_exports(export_dir: str, keep: int) -> list[str]:
    """Removes the oldest complete exports beside `export_dir` until `keep` are left with it; returns their paths."""
    others = [other for other in predictor.exports(os.path.dirname(export_dir)) if other != export_dir]
    for other in others[keep - 1:]:
        temporary = os.path.join(os.path.dirname(other), f'temp-{os.path.basename(other)}')
        os.rename(other, temporary)  # at once it is no export any more, for a reader
        shutil.rmtree(temporary)
    return others[keep - 1:]


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add('--model-dir', '--export-dir')
    parser.add_argument('--receiver', choices=RECEIVERS, default='number',
                        help='what the SavedModel takes: the number, the raw features, or a serialized '
                             'tf.train.Example (default: %(default)s)')
    parser.add_argument('--checkpoint', type=cli.path, metavar='PATH',
                        help='another than the newest: model/model.ckpt-750')
    parser.add_argument('--keep', type=cli.positive, metavar='N', help='then remove the oldest exports but N')
    args = parser.parse_args(argv)

    tf.logging.set_verbosity(tf.logging.INFO)
    estimator = model.load_estimator(args.model_dir, args.checkpoint)

    export_dir = export_model(estimator, args.export_dir, RECEIVERS[args.receiver], args.checkpoint)

    print(f'Exported to {export_dir}. To look at it:\n'
          f'{os.path.relpath(os.path.dirname(sys.executable))}/saved_model_cli show --all --dir {export_dir}')
    if args.keep:
        with cli.writing_to(args.export_dir):
            for removed in remove_old_exports(export_dir, args.keep):
                print(f'Removed {removed}')


if __name__ == '__main__':
    main()
