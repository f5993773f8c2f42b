"""Predicts with any signature of an export, here or over the network.

    python -m examples.serve_any_signature --signature regression
    python -m examples.serve_any_signature --remote 127.0.0.1:8500

The signature says what it takes: a predictor has it as `feed_tensors`. --remote asks the model
`double` of a TensorFlow Serving, over gRPC, or with http:// before the address over REST.
"""

import support
from estimator_inference import exports, predictor, remote, tf


def to_input(tensor, number):
    """Returns what an input takes for a number: an Example [1], features [1, 2] or it [1, 1]."""
    if tensor.dtype == tf.string:
        example = tf.train.Example()
        example.features.feature['number'].float_list.value.append(number)
        return [example.SerializeToString()]
    return [[number] * (tensor.shape[-1] or 1)]


def open_predictor(args):
    """Returns the predictor, here or remote: both are called with {input key: value}."""
    if args.remote:
        return remote.RemotePredictor(args.remote, 'double', args.signature)
    return predictor.from_saved_model(exports.latest(args.export_dir), args.signature)


def main(argv=None):
    parser = support.parser(__doc__, export_dir='saved_model', signature='serving_default')
    parser.add_argument(
        '--remote', metavar='ADDRESS', help='as 127.0.0.1:8500, http://127.0.0.1:8501'
    )
    args = parser.parse_args(argv)

    try:
        with open_predictor(args) as predict_fn:
            print(f'{args.signature} takes {predict_fn.feed_tensors}')
            for number in (100, 101, 102):
                feeds = predict_fn.feed_tensors.items()
                print(
                    f'{number}:', predict_fn({key: to_input(feed, number) for key, feed in feeds})
                )
    except (remote.RemoteError, ImportError, ValueError) as error:
        raise support.Error(str(error)) from None


if __name__ == '__main__':
    support.run(main)
