"""Predicts as serve.py does, with any export of this repository and any of its signatures, here or over the network.

    python -m beyond.serve --signature regression
    python -m beyond.serve --remote 127.0.0.1:8500

The signature tells what to feed. --remote asks the model `double` of a TensorFlow Serving, over gRPC.
"""

from __future__ import annotations

import argparse
import time

import tensorflow as tf

from support import report, script  # before TensorFlow
from estimator_inference import RemotePredictor, exports, predictor
from support.command_line import port
from support.errors import Fault


def host_port(text):
    """Checks a flag's value, HOST:PORT, for argparse."""
    host, _, number = text.rpartition(':')
    if not host:
        raise argparse.ArgumentTypeError(f'expected HOST:PORT, as in 127.0.0.1:8500, got {text!r}')
    return f'{host}:{port(number)}'


def to_input(tensor, number):
    """Returns what a signature takes for a number: an Example [1], the features [1, 2], or the number [1, 1]."""
    if tensor.dtype == tf.string:
        return [
            tf.train.Example(
                features=tf.train.Features(
                    feature={
                        'number': tf.train.Feature(float_list=tf.train.FloatList(value=[number]))
                    }
                )
            ).SerializeToString()
        ]
    return [[number, number]] if tensor.shape[-1:] == [2] else [[number]]


@script(
    reads='saved_model',
    examples=10_000,
    signature=dict(metavar='NAME', help='the head to ask (default: serving_default)'),
    remote=dict(type=host_port, metavar='HOST:PORT', help='ask a TensorFlow Serving there'),
)
def main(args):
    export_dir = None if args.remote else exports.latest(args.export_dir)
    print(f'Serving {export_dir or args.remote}')
    predict_fn = (
        RemotePredictor(args.remote, 'double', args.signature)
        if args.remote
        else predictor.from_saved_model(export_dir, args.signature)
    )
    with predict_fn:
        feeds, fetches = sorted(predict_fn.feed_tensors), sorted(predict_fn.fetch_tensors)
        if len(feeds) != 1 or not {'output', 'predictions', 'outputs', 'hidden'}.intersection(
            fetches
        ):
            raise Fault(
                f'the export takes {feeds} and gives {fetches}: it is none of those of beyond.export'
            )
        [(key, tensor)] = predict_fn.feed_tensors.items()
        predictions, times = {}, []
        for nb in range(100, 100 + args.examples):
            value = to_input(tensor, nb)
            start = time.perf_counter()
            outputs = predict_fn({key: value})
            times.append(time.perf_counter() - start)
            predictions[nb] = (
                outputs if len(outputs) > 1 or 'hidden' in outputs else outputs.popitem()[1]
            )
    report('beyond.serve', predictions, times)


if __name__ == '__main__':
    main()
