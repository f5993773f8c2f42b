"""Trains on a cluster of three processes: a chief, a worker and a parameter server, each a train.py on this machine.

    python cluster.py

A process learns from TF_CONFIG where the others are and which of them it is. On several machines: train.py on each,
with their addresses in place of 127.0.0.1, and --model-dir on a disk that they share. `run_config` and `train` are what
train.py does with it.
"""
from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Optional, Sequence

import cli
import fast_predict
import latency
from tf1 import tf

TASKS = ('ps', 'chief', 'worker')


def run_config(model_dir: str, session_config: tf.ConfigProto, **options: Any) -> tf.estimator.RunConfig:
    """Returns the RunConfig of a training: in the cluster that TF_CONFIG describes, if it is set.

    Ends the script with a line where TF_CONFIG describes none.
    """
    tf_config = os.environ.get('TF_CONFIG')
    try:
        config = tf.estimator.RunConfig(model_dir, **options)
        if config.num_worker_replicas > 1 and not config.num_ps_replicas:
            raise ValueError('it has workers, and no "ps" to keep the variables that they share')
    except (AttributeError, TypeError, ValueError) as error:
        if tf_config is None:
            raise
        sys.exit(f'TF_CONFIG={tf_config:.200} is no cluster ({cli.reason(error)}): cluster.py has an example')
    if config.session_config:  # in a cluster: which processes this one depends on, the parameter servers
        session_config.device_filters.extend(config.session_config.device_filters)
    return config.replace(session_config=session_config)


def train(estimator: tf.estimator.Estimator, train_input_fn: Callable, steps: int, eval_input_fn: Callable) -> None:
    """Does this process's task in the cluster of TF_CONFIG. A parameter server goes on until it is killed."""
    try:
        tf.estimator.train_and_evaluate(
            estimator,
            tf.estimator.TrainSpec(train_input_fn, max_steps=steps),
            tf.estimator.EvalSpec(eval_input_fn, steps=None, start_delay_secs=0, throttle_secs=1))
    except (tf.errors.InvalidArgumentError, tf.errors.UnknownError) as error:  # its address, for one
        sys.exit(f'the task in TF_CONFIG={os.environ["TF_CONFIG"]} failed: {cli.reason(error)}')


def free_addresses(count: int) -> list[str]:
    """Returns addresses on this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(('127.0.0.1', 0))) for _ in range(count)]
        return [f'127.0.0.1:{opened.getsockname()[1]}' for opened in sockets]


def start(task: str, cluster: dict[str, list[str]], *args: str) -> subprocess.Popen:
    """Starts train.py as a task of a cluster, and prints what it prints behind its name."""
    train = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'train.py')
    tf_config = {'cluster': cluster, 'task': {'type': task, 'index': 0}}
    process = subprocess.Popen([sys.executable, train, *args], env={**os.environ, 'TF_CONFIG': json.dumps(tf_config)},
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def show():
        for line in process.stdout or ():
            print(f'{task:6} | {line}', end='', flush=True)

    threading.Thread(target=show).start()
    return process


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add('--model-dir', default='cluster')
    parser.add_argument('--steps', type=cli.positive, default=10_000, metavar='N',
                        help='train until the step N, of all together (default: %(default)s)')
    args = parser.parse_args(argv)

    addresses = free_addresses(len(TASKS))
    cluster = {task: [address] for task, address in zip(TASKS, addresses)}
    print('TF_CONFIG.cluster:', json.dumps(cluster), flush=True)
    processes = {}
    try:
        for task in TASKS:
            processes[task] = start(task, cluster, '--model-dir', args.model_dir, '--steps', str(args.steps))
        while processes['chief'].poll() is None or processes['worker'].poll() is None:
            for task, process in processes.items():
                if process.poll():
                    sys.exit(f'the {task} ended with status {process.poll()}')
            time.sleep(0.1)
    finally:
        for process in processes.values():
            process.kill()  # a parameter server never ends by itself

    latency.measure(fast_predict.open_fast_predict(args.model_dir), 100)
    print(f'The model in {args.model_dir} answers 2x')


if __name__ == '__main__':
    main()
