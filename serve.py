"""Predicts with the newest export and `predictor.py`: the posts' good way. No Estimator, no model.py.

    python serve.py
"""
from __future__ import annotations

import contextlib
import sys
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Sequence

import cli
import quiet  # noqa: F401  before TensorFlow

import tensorflow as tf

import latency
import predictor
import remote


@contextlib.contextmanager
def open_saved_model(export_dir: str, signature: Optional[str] = None) -> Iterator[Callable]:
    """Gives `get_predictions`, which asks the newest export: in the posts, `predict_fn({'number': [[nb]]})['output']`.

    For the other exports that export.py makes, the signature tells what to feed and what to fetch.
    """
    try:
        newest = predictor.latest_export(export_dir)
        predict_fn = predictor.from_saved_model(newest, signature)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f'{error}' if signature else f'{error}: run python export.py --export-dir {export_dir}')
    with predict_fn:
        yield asking(predict_fn, predict_fn.feed_tensors, predict_fn.fetch_tensors)


@contextlib.contextmanager
def open_remote(address: str, signature: Optional[str] = None) -> Iterator[Callable]:
    """Gives `get_predictions`, which asks the model `double` of a TensorFlow Serving at HOST:PORT."""
    predict_fn = remote.RemotePredictor(address, 'double', signature)
    with predict_fn:
        yield asking(predict_fn, predict_fn.feed_tensors, predict_fn.fetch_tensors)


def asking(predict_fn: Callable[[dict], dict], feeds: Mapping[str, Any], fetches: Iterable[str]) -> Callable:
    """Returns `get_predictions`, which feeds and fetches what the signature of `predict_fn` says.

    Args:
      predict_fn: A function from {input key: value} to {output key: array}.
      feeds: {input key: what has its dtype and shape}.
      fetches: The output keys.
    """
    output = next((name for name in ('output', 'predictions', 'outputs') if name in fetches), None)
    if len(feeds) != 1 or output is None and list(fetches) != ['hidden']:
        sys.exit(f'the export takes {sorted(feeds)} and gives {sorted(fetches)}: it is none of those of export.py')
    [(key, tensor)] = feeds.items()
    to_input = to_examples if tensor.dtype == tf.string else to_features if tensor.shape[-1:] == [2] else to_number

    def get_predictions(numbers):
        outputs = predict_fn({key: to_input(numbers)})
        return outputs[output][:, 0] if output else None  # the head `hidden` is a layer, and not 2x

    return get_predictions


def to_number(numbers: Sequence[float]) -> list[list[float]]:
    """Returns what an export with the receiver `number` takes: [n, 1]."""
    return [[nb] for nb in numbers]


def to_features(numbers: Sequence[float]) -> list[list[float]]:
    """Returns what an export with the receiver `raw` takes: [n, 2]."""
    return [[nb, nb] for nb in numbers]


def to_examples(numbers: Sequence[float]) -> list[bytes]:
    """Returns what an export with the receiver `example` takes: [n]."""
    return [tf.train.Example(features=tf.train.Features(feature={
        'number': tf.train.Feature(float_list=tf.train.FloatList(value=[nb]))})).SerializeToString() for nb in numbers]


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add('--export-dir', '--examples')
    parser.add_argument('--signature', metavar='NAME', help='the head to ask (default: serving_default)')
    parser.add_argument('--remote', type=remote.host_port, metavar='HOST:PORT',
                        help='ask the model `double` of a TensorFlow Serving there, over gRPC, not an export here')
    args = parser.parse_args(argv)

    opened = (open_remote(args.remote, args.signature) if args.remote else
              open_saved_model(args.export_dir, args.signature))
    timing = latency.measure(opened, args.examples)
    print(f'Average time in serve.py: {timing}')


if __name__ == '__main__':
    main()
