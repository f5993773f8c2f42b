"""Predicts three flowers with a TensorFlow Serving, over gRPC or REST, and tells which version of the model answered.

    python -m iris.remote

The README says how to start one; over gRPC, this needs requirements-serving.txt.
"""
from __future__ import annotations

import argparse
from typing import Optional, Sequence

import cli
import remote
from iris import iris_data


def seconds(text: str) -> float:
    """Converts a flag's value to a time, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f'expected a number of seconds above 0, got {text!r}')
    return value


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--host', default='127.0.0.1', help='(default: %(default)s)')
    parser.add_argument('--port', type=remote.port, metavar='N', help='(default: 8500, with --rest 8501)')
    parser.add_argument('--model', default='iris', metavar='NAME', help='(default: %(default)s)')
    parser.add_argument('--timeout', type=seconds, default=remote.TIMEOUT, metavar='SECONDS',
                        help='give up on a request after that (default: %(default)s)')
    parser.add_argument('--rest', action='store_true', help='ask over REST (HTTP and JSON) instead of gRPC')
    args = parser.parse_args(argv)

    address = f'{args.host}:{args.port or (8501 if args.rest else 8500)}'
    if args.rest:
        answer = remote.classify_rest(address, args.model, iris_data.rows(iris_data.FLOWERS), args.timeout)
    else:
        with remote.Connection(address, args.model, args.timeout) as connection:
            answer = connection.classify(iris_data.to_examples(iris_data.FLOWERS))
    classes, scores, version = answer
    print(iris_data.table(classes, scores))
    print(f'Answered by version {version} of the model {args.model!r} at {address}')


if __name__ == '__main__':
    main()
