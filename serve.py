"""Predicts with the newest export and `predictor.py`: the posts' good way. No Estimator, no model.py.

    python serve.py
"""
from __future__ import annotations

import contextlib
import sys
from typing import Any, Callable, Iterator, Optional, Sequence

import quiet  # noqa: F401  before TensorFlow

import tensorflow as tf

import cli
import latency
import predictor


@contextlib.contextmanager
def open_saved_model(export_dir: str, signature: Optional[str] = None) -> Iterator[Callable[[float], Any]]:
    """Gives `get_prediction`, which asks the newest export: with the posts' `predict_fn({'number': [[nb]]})['output']`.

    For the other exports that export.py makes, the signature tells what to feed and what to fetch.
    """
    try:
        predict_fn = predictor.from_saved_model(predictor.latest_export(export_dir), signature)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f'{error}: run python export.py --export-dir {export_dir}')
    [(key, tensor)] = predict_fn.feed_tensors.items()
    to_input = to_example if tensor.dtype == tf.string else to_features if tensor.shape[-1] == 2 else to_number
    output = {'output', 'predictions', 'outputs'} & predict_fn.fetch_tensors.keys()
    output = output.pop() if output else None

    def get_prediction(nb):
        outputs = predict_fn({key: to_input(nb)})
        return outputs[output][0, 0] if output else latency.UNCHECKED  # the head of a hidden layer isn't 2x

    with predict_fn:
        yield get_prediction


def to_number(nb: float) -> list[list[float]]:
    """Returns what an export with the receiver `number` takes, [1, 1]."""
    return [[nb]]


def to_features(nb: float) -> list[list[float]]:
    """Returns what an export with the receiver `raw` takes, [1, 2]."""
    return [[nb, nb]]


def to_example(nb: float) -> list[bytes]:
    """Returns what an export with the receiver `example` takes, [1]."""
    number = tf.train.Feature(float_list=tf.train.FloatList(value=[nb]))
    return [tf.train.Example(features=tf.train.Features(feature={'number': number})).SerializeToString()]


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add('--export-dir', '--examples')
    parser.add_argument('--signature', metavar='NAME', help='the head to ask (default: serving_default)')
    args = parser.parse_args(argv)

    timing = latency.measure(open_saved_model(args.export_dir, args.signature), args.examples)
    print(f'Average time in serve.py: {timing}')


if __name__ == '__main__':
    cli.run(main)
