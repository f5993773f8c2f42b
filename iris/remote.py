"""Predicts three flowers with a TensorFlow Serving, over gRPC or REST, and tells which version of the model answered.

    python -m iris.remote

docs/serving.md says how to start one. gRPC needs tensorflow-serving-api, REST needs nothing.
"""

import argparse
import re

from support import script  # before TensorFlow
from estimator_inference import RemotePredictor
from iris.iris_data import FLOWERS, table, to_examples
from support.command_line import port


def seconds(text):
    """Converts a flag's value to a time, for argparse."""
    if not re.fullmatch(r'\d{1,6}(\.\d+)?', text) or not float(text):
        raise argparse.ArgumentTypeError(f'expected a number of seconds above 0, got {text!r}')
    return float(text)


@script(
    device=False,
    host=dict(default='127.0.0.1', help='(default: %(default)s)'),
    port=dict(type=port, metavar='N', help='(default: 8500, with --rest 8501)'),
    model=dict(default='iris', metavar='NAME', help='(default: %(default)s)'),
    timeout=dict(
        type=seconds, default=10, metavar='SECONDS', help='of a request (default: %(default)s)'
    ),
    rest=dict(action='store_true', help='ask over REST (HTTP and JSON) instead of gRPC'),
)
def main(args):
    address = f'{args.host}:{args.port or (8501 if args.rest else 8500)}'
    url = f'http://{address}' if args.rest else address
    with RemotePredictor(url, args.model, timeout=args.timeout) as client:
        answer = client.classify(to_examples(FLOWERS))
    print(table(answer['classes'], answer['scores']))
    print(f'Answered by the model {args.model!r} at {address}')


if __name__ == '__main__':
    main()
