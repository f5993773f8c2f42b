"""Trains in three processes: a chief, a worker and a parameter server, each a train_and_evaluate.py on this machine.

    python -m beyond.cluster

A process learns from TF_CONFIG where the others are and which of them it is. On several machines: the same command on
each, with their addresses in place of 127.0.0.1, and --model-dir on a disk that they share.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

from support import checkpoints, script  # before TensorFlow
from estimator_inference import FastPredict, tf
from model import model_fn
from support.command_line import positive
from support.errors import ROOT, Fault
from support.timing import check, number_in

TASKS = ('ps', 'chief', 'worker')


def free_addresses(count):
    """Returns addresses on this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(('127.0.0.1', 0))) for _ in range(count)
        ]
        return [f'127.0.0.1:{opened.getsockname()[1]}' for opened in sockets]


def start(task, cluster, *args):
    """Starts a task of a cluster, and prints what it prints behind its name."""
    tf_config = {'cluster': cluster, 'task': {'type': task, 'index': 0}}
    process = subprocess.Popen(
        [sys.executable, '-m', 'beyond.train_and_evaluate', *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'TF_CONFIG': json.dumps(tf_config), 'PYTHONPATH': ROOT},
    )

    def show():
        for line in process.stdout:
            print(f'{task:6} | {line}', end='', flush=True)

    threading.Thread(target=show).start()
    return process


@script(
    model_dir='cluster',
    steps=dict(
        metavar='N',
        type=positive,
        default=10_000,
        help='train until the step N (default: %(default)s)',
    ),
)
def main(args):
    cluster = {task: [address] for task, address in zip(TASKS, free_addresses(len(TASKS)))}
    print('This takes about a minute.')
    print('TF_CONFIG.cluster:', json.dumps(cluster), flush=True)
    processes = {}
    try:
        for task in TASKS:
            processes[task] = start(
                task, cluster, '--model-dir', args.model_dir, '--steps', str(args.steps)
            )
        while None in (processes['chief'].poll(), processes['worker'].poll()):
            for task, process in processes.items():
                if process.poll():
                    raise Fault(f'the {task} ended with status {process.poll()}')
            time.sleep(0.1)
    finally:
        for process in processes.values():
            process.kill()  # a parameter server never ends by itself

    params = checkpoints.params(checkpoints.latest(args.model_dir))
    estimator = tf.estimator.Estimator(model_fn, args.model_dir, params=params)
    with FastPredict(estimator, tf.TensorSpec([None, 2], tf.float32)) as fast_predict:
        check(
            range(100),
            [
                number_in(prediction)
                for prediction in fast_predict.predict([[n, n] for n in range(100)])
            ],
        )
    print(f'The model in {args.model_dir} answers 2x')


if __name__ == '__main__':
    main()
