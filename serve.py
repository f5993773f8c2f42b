"""Predicts with the newest export and `predictor.py`: the posts' good way. No Estimator, no model.py.

    python serve.py
"""
from __future__ import annotations

import contextlib
import sys
from typing import Callable, Iterator, Optional, Sequence

import quiet  # noqa: F401  before TensorFlow

import cli
import latency
import predictor


@contextlib.contextmanager
def open_saved_model(export_dir: str) -> Iterator[Callable[[float], float]]:
    """Gives `get_prediction`, which asks the newest export."""
    try:
        predict_fn = predictor.from_saved_model(predictor.latest_export(export_dir))
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f'{error}: run python export.py --export-dir {export_dir}')

    def get_prediction(nb):
        return predict_fn({'number': [[nb]]})['output'][0, 0]

    with predict_fn:
        yield get_prediction


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add('--export-dir', '--examples')
    args = parser.parse_args(argv)

    timing = latency.measure(open_saved_model(args.export_dir), args.examples)
    print(f'Average time in serve.py: {timing}')


if __name__ == '__main__':
    cli.run(main)
