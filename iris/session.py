"""Predicts three flowers with the newest export and nothing but a session: load, look up the signature, run.

    python -m iris.session
"""
from __future__ import annotations

import sys
from typing import Optional, Sequence

import cli
import quiet  # noqa: F401  before TensorFlow

import numpy as np
import tensorflow.compat.v1 as tf

import predictor
from iris import iris_data


def predict(export_dir: str, examples: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a SavedModel answers to n serialized `tf.train.Example`s: classes, bytes [n, 3], and scores [n, 3].

    Raises:
      tf.errors.OpError: The SavedModel is damaged.
      ValueError: It isn't a classifier of `tf.train.Example`s.
    """
    with tf.Session(graph=tf.Graph()) as session:
        meta_graph = tf.saved_model.loader.load(session, [tf.saved_model.tag_constants.SERVING], export_dir)
        signature = meta_graph.signature_def['serving_default']
        if signature.method_name != tf.saved_model.signature_constants.CLASSIFY_METHOD_NAME:
            raise ValueError(f'{export_dir} has no classifier for its serving_default')
        fetches = [signature.outputs[key].name for key in ('classes', 'scores')]
        return tuple(session.run(fetches, {signature.inputs['inputs'].name: examples}))


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add('--export-dir', default='iris/saved_model')
    args = parser.parse_args(argv)

    try:
        export_dir = predictor.latest_export(args.export_dir)
        classes, scores = predict(export_dir, iris_data.serialized(iris_data.FLOWERS))
    except (OSError, ValueError, tf.errors.OpError) as error:
        sys.exit(f'{str(error).splitlines()[0]}: run python -m iris.train --export-dir {args.export_dir}')
    print(iris_data.table(classes, scores))


if __name__ == '__main__':
    main()
