"""Trains as one task of the cluster in TF_CONFIG: chief, worker, ps or evaluator.

    python -m examples.cluster_task --model-dir /a/shared/disk/model

is the command on each machine; only TF_CONFIG differs. examples/cluster.py starts three of them.
"""

import support
from estimator_inference import tf
from model import model_fn
from train import train_input_fn

from examples.train_and_evaluate import eval_input_fn


def model_fn_with_falling_rate(features, labels, mode, params):
    """Returns model_fn's EstimatorSpec, trained with a rate that falls to 0 at the last step.

    Steps of several workers overlap: each starts from weights that others change meanwhile. With
    the posts' rate of 0.5 to the end, such weights don't come to rest.
    """
    spec = model_fn(features, labels, mode, params={})
    if mode == tf.estimator.ModeKeys.TRAIN:
        step = tf.train.get_global_step()
        rate = tf.train.polynomial_decay(0.5, step, params['steps'], end_learning_rate=0.0)
        train_op = tf.train.AdamOptimizer(rate).minimize(spec.loss, step)
        spec = spec._replace(train_op=train_op)
    return spec


def main(argv=None):
    args = support.parser(__doc__, model_dir='cluster', steps=3_000).parse_args(argv)

    config = tf.estimator.RunConfig(args.model_dir)  # reads TF_CONFIG
    print(f'Training to step {args.steps:,} as {config.task_type} {config.task_id}', flush=True)
    estimator = tf.estimator.Estimator(
        model_fn_with_falling_rate, config=config, params={'steps': args.steps}
    )
    # Training ends at a step, not with the examples, which come again and again.
    train_spec = tf.estimator.TrainSpec(lambda: train_input_fn().repeat(), args.steps)
    eval_spec = tf.estimator.EvalSpec(eval_input_fn, start_delay_secs=0, throttle_secs=1)
    tf.estimator.train_and_evaluate(estimator, train_spec, eval_spec)  # a ps never returns


if __name__ == '__main__':
    support.run(main)
