"""Trains and evaluates in turn, stops early, and exports the best model.

    python -m beyond.train_and_evaluate

evaluates on numbers that aren't trained on, and stops when the loss on them has not fallen for 200 steps. Where
TF_CONFIG describes a cluster, it does the part of its task there instead: chief, worker, ps or evaluator.
"""

from __future__ import annotations

import contextlib
import os
import shutil

from support import checkpoints, script  # before TensorFlow
from estimator_inference import exports, tf
from export import serving_input_receiver_fn
from model import model_fn
from support.command_line import positive
from support.directories import writing_to
from support.errors import Fault, command, reason
from train import train_input_fn


def eval_input_fn():
    """Returns one batch of the numbers 100..199, which aren't trained on: features [100, 2], labels [100, 1]."""
    number = tf.reshape(tf.range(100.0, 200.0), [100, 1])
    return tf.data.Dataset.from_tensors((tf.tile(number, [1, 2]), 2 * number))


def run_config(args):
    """Returns the RunConfig of this training: in the cluster of TF_CONFIG, if that is set."""
    tf_config = os.environ.get('TF_CONFIG')
    try:
        config = tf.estimator.RunConfig(
            args.model_dir,
            tf_random_seed=args.seed,
            save_checkpoints_steps=250 if tf_config else 50,
        )
        if config.num_worker_replicas > 1 and not config.num_ps_replicas:
            raise ValueError('it has workers, and no "ps" to keep the variables that they share')
        return config
    except (AttributeError, TypeError, ValueError) as error:
        raise Fault(
            f'TF_CONFIG={tf_config:.200} is no cluster ({reason(error)}): for an example, run '
            f'{command("-m beyond.cluster")}'
        ) from None


def train_and_evaluate(estimator, steps, hooks=(), **eval_options):
    # Training ends at a step, and not with the examples, which come again and again.
    train_spec = tf.estimator.TrainSpec(lambda: train_input_fn().repeat(), steps, hooks)
    tf.estimator.train_and_evaluate(
        estimator, train_spec, tf.estimator.EvalSpec(eval_input_fn, steps=None, **eval_options)
    )


def train_in_cluster(estimator, steps):
    """Does this process's task in the cluster of TF_CONFIG. A parameter server goes on until it is killed."""
    try:
        train_and_evaluate(estimator, steps, start_delay_secs=0, throttle_secs=1)
    except (
        tf.errors.InvalidArgumentError,
        tf.errors.UnknownError,
    ) as error:  # as when its address is in use
        raise Fault(
            f'the task in TF_CONFIG={os.environ["TF_CONFIG"]} failed: {reason(error)}'
        ) from None


def train_best(estimator, steps, export_dir):
    """Trains and evaluates in turn, until the loss no longer falls; returns the path of the best model's export."""
    stop = tf.estimator.experimental.stop_if_no_decrease_hook(
        estimator, 'loss', max_steps_without_decrease=200, run_every_secs=None, run_every_steps=50
    )
    exporter = tf.estimator.BestExporter('best', serving_input_receiver_fn, exports_to_keep=1)
    train_and_evaluate(estimator, steps, [stop], exporters=exporter, throttle_secs=0)
    exported = exports.latest(os.path.join(estimator.model_dir, 'export', 'best'))
    timestamp = os.path.basename(exported)
    shutil.copytree(exported, os.path.join(export_dir, f'temp-{timestamp}'))
    return shutil.move(
        os.path.join(export_dir, f'temp-{timestamp}'), os.path.join(export_dir, timestamp)
    )


@script(
    cluster=True,
    model_dir='held_out/model',
    export_dir='held_out/saved_model',
    seed=1,
    hidden_units=None,
    steps=dict(
        metavar='N',
        type=positive,
        default=10_000,
        help='train at most until the step N (default: %(default)s)',
    ),
)
def main(args):
    tf.logging.set_verbosity(tf.logging.INFO)
    checkpoint = checkpoints.latest(args.model_dir)
    params = checkpoints.params(checkpoint, args.hidden_units)
    config = run_config(args)
    in_cluster = config.cluster_spec or config.task_type == 'evaluator'
    if (
        in_cluster
    ):  # where steps of several workers overlap, training comes to rest with the learning rate only
        params.setdefault('learning_rate', checkpoints.falling(0.5, args.steps))
    estimator = tf.estimator.Estimator(model_fn, args.model_dir, config, params)
    if in_cluster:
        print(
            f'Training to step {args.steps:,} on {args.device}, as {config.task_type} {config.task_id}, with the '
            'others in TF_CONFIG',
            flush=True,
        )
        with writing_to(args.model_dir) if config.is_chief else contextlib.nullcontext():
            train_in_cluster(estimator, args.steps)
        return
    if checkpoint:  # no checkpoint tells which loss was the best before
        raise Fault(
            f'it trains from the beginning, and {args.model_dir} has a checkpoint: choose another --model-dir'
        )
    with writing_to(args.model_dir), writing_to(args.export_dir):
        print(f'Exported the best model to {train_best(estimator, args.steps, args.export_dir)}')


if __name__ == '__main__':
    main()
