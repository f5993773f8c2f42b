"""Exports the posts' model with another receiver, with several heads, or from another checkpoint.

    python -m examples.receivers_and_heads --receiver example --heads
    python -m examples.receivers_and_heads --checkpoint model/model.ckpt-750

writes it to saved_model/<timestamp>/, as export.py does.
"""

import support
from estimator_inference import tf
from export import serving_input_receiver_fn
from model import model_fn


def raw_receiver_fn():
    """Returns the receiver of the features themselves: `feature`, float32 [None, 2]."""
    feature = tf.placeholder(tf.float32, [None, 2], name='feature')
    return tf.estimator.export.build_raw_serving_input_receiver_fn({'feature': feature})()


def example_receiver_fn():
    """Returns the receiver of serialized `tf.train.Example`s: `examples`, string [None].

    Each has a float `number`. What makes features of it is the same as in export.py.
    """
    spec = {'number': tf.FixedLenFeature([1], tf.float32)}
    receiver = tf.estimator.export.build_parsing_serving_input_receiver_fn(spec)()
    features = tf.tile(receiver.features['number'], multiples=[1, 2])
    return tf.estimator.export.ServingInputReceiver(features, receiver.receiver_tensors)


RECEIVERS = {
    'number': serving_input_receiver_fn,
    'raw': raw_receiver_fn,
    'example': example_receiver_fn,
}


def model_fn_with_heads(features, labels, mode, params):
    """Returns model_fn's EstimatorSpec with a head for each entry of export_outputs.

    Each becomes a signature with the same input. Its class decides which of TensorFlow Serving's
    methods answers: PredictOutput Predict, RegressionOutput Regress.
    """
    spec = model_fn(features, labels, mode, params)
    predictions = spec.predictions
    hidden = isinstance(predictions, dict)  # post B's model
    heads = {
        'serving_default': tf.estimator.export.PredictOutput(predictions),
        'regression': tf.estimator.export.RegressionOutput(
            predictions['predictions'] if hidden else predictions
        ),
    }
    if hidden:
        heads['hidden'] = tf.estimator.export.PredictOutput({'hidden': predictions['hidden']})
    return spec._replace(export_outputs=heads)


def main(argv=None):
    parser = support.parser(__doc__, model_dir='model', export_dir='saved_model')
    parser.add_argument('--receiver', choices=RECEIVERS, default='number', help='what it takes')
    parser.add_argument('--heads', action='store_true', help='regression takes Examples only')
    parser.add_argument('--checkpoint', help='default: the newest')
    args = parser.parse_args(argv)

    estimator = tf.estimator.Estimator(
        model_fn_with_heads if args.heads else model_fn,
        args.model_dir,
        params=support.params(args.model_dir),
    )
    checkpoint = args.checkpoint or estimator.latest_checkpoint()
    if not tf.train.checkpoint_exists(checkpoint):
        raise support.Error(
            f'no checkpoint {checkpoint}: expected one as {args.model_dir}/model.ckpt-750'
        )
    export_dir = estimator.export_saved_model(
        args.export_dir, RECEIVERS[args.receiver], checkpoint_path=checkpoint
    )
    print(f'Exported {checkpoint} to {export_dir.decode()}')


if __name__ == '__main__':
    support.run(main)
