"""Trains the model of the posts: f([x, x]) = 2x, from the 100 examples [n, n] -> [2n], n = 0..99.

    python train.py

leaves checkpoints in model/. Run again, it goes on from the last one, after being killed for instance. Where TF_CONFIG
describes a cluster, it does the part of its task there: chief, worker, ps or evaluator.
"""
from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
from typing import Iterator, Optional, Sequence

import cli
import cluster
import export
import model
import predictor
from tf1 import tf


def train_generator_fn() -> Iterator[tuple[list[float], list[float]]]:
    """Yields the 100 training examples: number [n], labels [2n]."""
    for number in range(100):
        yield [number], [2 * number]


def train_input_fn(seed: int) -> tf.data.Dataset:
    """Returns batches of features, float32 [20, 2], and labels, float32 [20, 1], without end."""
    dataset = tf.data.Dataset.from_generator(train_generator_fn, (tf.float32, tf.float32), ((1,), (1,)))
    # The posts take the examples in order, 200 times: whether that converges depends on the initial weights. Shuffled,
    # it does. And it repeats for ever, so that a training that was killed still ends after `--steps`, not before.
    dataset = dataset.cache().shuffle(100, seed).repeat().batch(20)
    return dataset.map(lambda number, labels: (model.number_to_features(number), labels))


def eval_input_fn() -> tf.data.Dataset:
    """Returns one batch of the numbers 100..199, which aren't trained on: features [100, 2], labels [100, 1]."""
    number = tf.reshape(tf.range(100., 200.), [100, 1])
    return tf.data.Dataset.from_tensors((model.number_to_features(number), 2 * number))


def train_best(estimator: tf.estimator.Estimator, seed: int, steps: int, best_dir: str) -> str:
    """Trains and evaluates in turn, until the loss on held-out numbers no longer falls, and exports the best model.

    Returns:
      The path of the export, below `best_dir`.
    """
    stop = tf.estimator.experimental.stop_if_no_decrease_hook(
        estimator, 'loss', max_steps_without_decrease=200, run_every_secs=None, run_every_steps=50)
    exporter = tf.estimator.BestExporter('best', export.serving_input_receiver_fn, exports_to_keep=1)
    with cli.writing_to(best_dir):
        tf.estimator.train_and_evaluate(
            estimator,
            tf.estimator.TrainSpec(lambda: train_input_fn(seed), max_steps=steps, hooks=[stop]),
            tf.estimator.EvalSpec(eval_input_fn, steps=None, exporters=exporter, throttle_secs=0))
        exported = predictor.latest_export(os.path.join(estimator.model_dir, 'export', 'best'))
        predictor.write_checksum(exported)
        timestamp = os.path.basename(exported)
        shutil.copytree(exported, os.path.join(best_dir, f'temp-{timestamp}'))
        os.rename(os.path.join(best_dir, f'temp-{timestamp}'), os.path.join(best_dir, timestamp))
    return os.path.join(best_dir, timestamp)


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add('--model-dir', '--device')
    parser.add_argument('--steps', type=cli.positive, default=1000, metavar='N',
                        help='train until the step N, from the beginning on (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=1, metavar='N',
                        help='of the initial weights and the order of the examples (default: %(default)s)')
    parser.add_argument('--hidden-units', type=functools.partial(cli.positive, most=10 ** 6), metavar='N',
                        help='put a hidden layer of N units in (default: none, or what model/ was trained with)')
    parser.add_argument('--save-checkpoints-steps', type=cli.positive, metavar='N',
                        help='write a checkpoint every N steps (default: 250, with --best 50)')
    parser.add_argument('--best', type=cli.directory, nargs='?', const='best', metavar='DIR',
                        help='evaluate on numbers held out, stop early, and export the best model to DIR (best)')
    args = parser.parse_args(argv)

    tf.logging.set_verbosity(tf.logging.INFO)
    checkpoint = model.latest_checkpoint(args.model_dir)
    step, hidden_units = 0, args.hidden_units or 0
    if checkpoint:
        step = tf.train.load_variable(checkpoint, 'global_step')
        hidden_units = args.hidden_units or model.checkpoint_hidden_units(checkpoint)
        model.check_fits(checkpoint, hidden_units)
        if args.best:  # what it has found until now isn't in a checkpoint
            sys.exit(f'--best trains from the beginning, and {args.model_dir} has {step:,} steps: '
                     'choose another --model-dir')
    device, session_config = model.device_config(args.device)
    config = cluster.run_config(args.model_dir, session_config, tf_random_seed=args.seed,
                                save_checkpoints_steps=args.save_checkpoints_steps or (50 if args.best else 250))
    estimator = model.build_estimator(args.model_dir, hidden_units, config)
    in_cluster = config.cluster_spec or config.task_type == 'evaluator'
    if args.best and in_cluster:
        sys.exit('--best trains on one machine, and TF_CONFIG asks for a cluster: leave one of them out')
    if step >= args.steps and config.task_type != 'evaluator':
        print(f'{args.model_dir} is trained already: {step:,} steps. To go on: python train.py '
              f'--model-dir {args.model_dir} --steps {step + 1000}. To train afresh: rm -r {args.model_dir}')
        return
    task = f', as {config.task_type} {config.task_id}, with the others in TF_CONFIG' if in_cluster else ''
    print(f'Training on {device}, from step {step:,} to {args.steps:,}{task}', flush=True)

    with cli.writing_to(args.model_dir) if config.is_chief else contextlib.nullcontext():
        if args.best:
            print(f'Exported the best model to {train_best(estimator, args.seed, args.steps, args.best)}')
        elif in_cluster:
            cluster.train(estimator, lambda: train_input_fn(args.seed), args.steps, eval_input_fn)
        else:
            estimator.train(lambda: train_input_fn(args.seed), max_steps=args.steps)

    if config.is_chief and dict(tf.train.list_variables(args.model_dir)).get('dense/kernel') == [2, 1]:  # the posts'
        a, b = estimator.get_variable_value('dense/kernel')[:, 0]
        print(f'Trained: f([x, y]) = {a:.5f} x {b:+.5f} y {estimator.get_variable_value("dense/bias")[0]:+.5f}')


if __name__ == '__main__':
    main()
