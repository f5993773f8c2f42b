"""Exports the newest checkpoint as a SavedModel, which needs neither model.py nor Estimator any more.

    python export.py

writes saved_model/<timestamp>/.
"""
from __future__ import annotations

import os
import sys
from typing import Optional, Sequence

import cli
import model
from tf1 import tf


def serving_input_receiver_fn() -> tf.estimator.export.ServingInputReceiver:
    """Returns the receiver: one placeholder `number`, float32 [None, 1], and the features made of it, [None, 2]."""
    number = tf.placeholder(tf.float32, [None, 1], name='number')
    return tf.estimator.export.ServingInputReceiver(tf.tile(number, [1, 2]), {'number': number})


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add('--model-dir', '--export-dir')
    args = parser.parse_args(argv)

    tf.logging.set_verbosity(tf.logging.INFO)
    estimator = model.load_estimator(args.model_dir)
    export_dir = os.fsdecode(estimator.export_saved_model(args.export_dir, serving_input_receiver_fn))

    print(f'Exported to {export_dir}. To look at it:\n'
          f'{os.path.join(os.path.dirname(sys.executable), "saved_model_cli")} show --all --dir {export_dir}')


if __name__ == '__main__':
    cli.run(main)
