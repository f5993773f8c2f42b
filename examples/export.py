"""Exports as export.py does, with another receiver, with a signature for each head, or from another checkpoint.

    python -m beyond.export --receiver example --heads

writes the newest checkpoint to saved_model/<timestamp>/.
"""

from __future__ import annotations

from support import checkpoints, script  # before TensorFlow
from estimator_inference import tf
from export import serving_input_receiver_fn
from model import model_fn
from support.command_line import path
from support.errors import Fault


def raw_receiver_fn():
    """Returns a receiver of the features themselves: `feature`, float32 [None, 2]."""
    feature = tf.placeholder(tf.float32, [None, 2], name='feature')
    return tf.estimator.export.build_raw_serving_input_receiver_fn({'feature': feature})()


def example_receiver_fn():
    """Returns a receiver of serialized `tf.train.Example`s with a float `number`: `examples`, string [None]."""
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
    """Returns model_fn's EstimatorSpec with a signature for each head: `regression`, and `hidden` if there is one."""
    spec = model_fn(features, labels, mode, params)
    outputs = (
        spec.predictions if isinstance(spec.predictions, dict) else {'output': spec.predictions}
    )
    output = outputs.get('predictions', spec.predictions)
    heads = {
        'serving_default': tf.estimator.export.PredictOutput(outputs),
        'regression': tf.estimator.export.RegressionOutput(output),
    }
    if 'hidden' in outputs:
        heads['hidden'] = tf.estimator.export.PredictOutput({'hidden': outputs['hidden']})
    return spec._replace(export_outputs=heads)


@script(
    reads='model',
    writes='saved_model',
    receiver=dict(
        choices=RECEIVERS,
        default='number',
        help='what the SavedModel takes: the number, the raw '
        'features, or a serialized tf.train.Example (default: %(default)s)',
    ),
    heads=dict(
        action='store_true',
        help="a signature for each head; regression's receiver has to be example",
    ),
    checkpoint=dict(
        type=path, metavar='PATH', help='another than the newest: model/model.ckpt-750'
    ),
)
def main(args):
    if args.checkpoint is not None:
        if not tf.gfile.Exists(f'{args.checkpoint}.index'):
            raise Fault(
                f'no checkpoint {args.checkpoint}: expected a path as {args.model_dir}/model.ckpt-1000'
            )
        checkpoints.check(args.checkpoint)
    estimator = tf.estimator.Estimator(
        model_fn_with_heads if args.heads else model_fn, args.model_dir, params=args.params
    )
    export_dir = estimator.export_saved_model(
        args.export_dir, RECEIVERS[args.receiver], checkpoint_path=args.checkpoint
    ).decode()
    print(f'Exported {args.checkpoint or estimator.latest_checkpoint()} to {export_dir}')


if __name__ == '__main__':
    main()
