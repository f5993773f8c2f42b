"""Trains and evaluates in turn, stops early, and keeps the best model and the newest three.

    python -m examples.train_and_evaluate
    python serve.py --export-dir held_out/export/best
    tensorboard --logdir held_out

evaluates on numbers that aren't trained on, and stops when the loss on them hasn't fallen for 200
steps.
"""

import support
from estimator_inference import tf
from export import serving_input_receiver_fn
from model import model_fn
from train import train_input_fn


def eval_input_fn():
    """Returns one batch of the numbers 100..199: features float32 [100, 2], labels [100, 1]."""
    number = tf.reshape(tf.range(100.0, 200.0), [100, 1])
    return tf.data.Dataset.from_tensors((tf.tile(number, [1, 2]), 2 * number))


def main(argv=None):
    args = support.parser(__doc__, model_dir='held_out', steps=10_000).parse_args(argv)

    if tf.train.latest_checkpoint(args.model_dir):
        # A BestExporter keeps the first model that it sees, whatever was the best before.
        raise support.Error(f'{args.model_dir} has a checkpoint: choose another --model-dir')

    # A checkpoint is evaluated as it is written: every 50 steps.
    config = tf.estimator.RunConfig(save_checkpoints_steps=50)
    estimator = tf.estimator.Estimator(model_fn, args.model_dir, config, params={})

    stop = tf.estimator.experimental.stop_if_no_decrease_hook(
        estimator, 'loss', max_steps_without_decrease=200, run_every_secs=None, run_every_steps=50
    )
    # Training ends at a step, not with the examples, which come again and again.
    train_spec = tf.estimator.TrainSpec(lambda: train_input_fn().repeat(), args.steps, [stop])

    best = tf.estimator.BestExporter('best', serving_input_receiver_fn, exports_to_keep=1)
    latest = tf.estimator.LatestExporter('latest', serving_input_receiver_fn, exports_to_keep=3)
    eval_spec = tf.estimator.EvalSpec(
        eval_input_fn, steps=None, exporters=[best, latest], throttle_secs=0
    )

    metrics, _ = tf.estimator.train_and_evaluate(estimator, train_spec, eval_spec)
    print(f'Stopped at step {metrics["global_step"]}; the best model: {args.model_dir}/export/best')


if __name__ == '__main__':
    support.run(main)
