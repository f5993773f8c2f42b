"""Exports the newest checkpoint as a SavedModel, which needs neither model.py nor Estimator any more.

    python export.py

writes it to saved_model/<timestamp>/.
"""

from support import script  # first, since it keeps TensorFlow's start-up noise off the screen
from estimator_inference import tf
from model import model_fn


def serving_input_receiver_fn():
    """Returns the receiver: one placeholder `number`, float32 [None, 1], and the features [None, 2] made of it."""
    number = tf.placeholder(tf.float32, [None, 1], 'number')
    features = tf.tile(number, [1, 2])
    return tf.estimator.export.ServingInputReceiver(features, receiver_tensors={'number': number})


@script(reads='model', writes='saved_model')
def main(args):
    estimator = tf.estimator.Estimator(model_fn, args.model_dir, params=args.params)
    export_dir = estimator.export_saved_model(args.export_dir, serving_input_receiver_fn).decode()
    print(f'Exported {estimator.latest_checkpoint()} to {export_dir}')


if __name__ == '__main__':
    main()
