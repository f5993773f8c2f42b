"""Exports the newest checkpoint as a SavedModel, which needs neither model.py nor Estimator.

    python export.py

writes it to saved_model/<timestamp>/: saved_model.pb, and variables/.
"""

import support
from estimator_inference import tf
from model import model_fn


def serving_input_receiver_fn():
    """Returns the receiver: a request feeds `number`, float32 [n, 1]; the features are [n, 2]."""
    number = tf.placeholder(dtype=tf.float32, shape=[None, 1], name='number')
    features = tf.tile(number, multiples=[1, 2])
    return tf.estimator.export.ServingInputReceiver(features, receiver_tensors={'number': number})


def main(argv=None):
    args = support.parser(__doc__, model_dir='model', export_dir='saved_model').parse_args(argv)

    estimator = tf.estimator.Estimator(
        model_fn, args.model_dir, params=support.params(args.model_dir)
    )
    export_dir = estimator.export_saved_model(args.export_dir, serving_input_receiver_fn)

    print(f'Exported {estimator.latest_checkpoint()} to {export_dir.decode()}')


if __name__ == '__main__':
    support.run(main)
