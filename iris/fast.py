"""Predicts three flowers with FastPredict: the canned Estimator kept open, a dict of features in.

    python -m iris.fast
"""
from __future__ import annotations

from typing import Optional, Sequence

import cli
from fast_predict import FastPredict
from iris import classifier, iris_data
from tf1 import tf


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add('--model-dir', default='iris/model')
    args = parser.parse_args(argv)

    spec = {key: tf.TensorSpec([None], tf.float32) for key in iris_data.FEATURES}
    with FastPredict(classifier.load_estimator(args.model_dir), spec) as fast_predict:
        predictions = fast_predict.predict(iris_data.FLOWERS)
    print(iris_data.table([prediction['all_classes'] for prediction in predictions],
                          [prediction['probabilities'] for prediction in predictions]))


if __name__ == '__main__':
    main()
