"""Predicts three flowers with the newest export and `predictor.py`: serialized `tf.train.Example`s in. No Estimator.

    python -m iris.serve
"""
from __future__ import annotations

import sys
from typing import Optional, Sequence

import cli
import quiet  # noqa: F401  before TensorFlow
import predictor
from iris import iris_data


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add('--export-dir', default='iris/saved_model')
    args = parser.parse_args(argv)

    try:
        with predictor.from_saved_model(predictor.latest_export(args.export_dir)) as predict_fn:
            predictions = predict_fn({'inputs': iris_data.serialized(iris_data.FLOWERS)})
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f'{error}: run python -m iris.train --export-dir {args.export_dir}')
    print(iris_data.table(predictions['classes'], predictions['scores']))


if __name__ == '__main__':
    main()
