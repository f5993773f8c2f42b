"""Trains in three processes on this machine: a chief, a worker and a parameter server.

    python -m examples.cluster

Each is an examples/cluster_task.py. It learns from TF_CONFIG where the others are, and which of
them it is. Then the model is evaluated here.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

import support
from estimator_inference import tf
from model import model_fn

from examples.train_and_evaluate import eval_input_fn

TASKS = ('ps', 'chief', 'worker')


def free_addresses():
    """Returns a cluster on free ports of this machine, as TF_CONFIG has it: {task: [address]}."""
    with contextlib.ExitStack() as stack:
        # All are open at the same time: so no port comes twice.
        sockets = [stack.enter_context(socket.create_server(('127.0.0.1', 0))) for _ in TASKS]
        ports = [opened.getsockname()[1] for opened in sockets]
    return {task: [f'127.0.0.1:{port}'] for task, port in zip(TASKS, ports)}


def start(task, cluster, *args):
    """Starts a task, and prints what it prints behind its name. Returns the process."""
    tf_config = json.dumps({'cluster': cluster, 'task': {'type': task, 'index': 0}})
    process = subprocess.Popen(
        [sys.executable, '-m', 'examples.cluster_task', *args],
        env={**os.environ, 'TF_CONFIG': tf_config},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def show(lines):
        for line in lines:
            print(f'{task:6} | {line}', end='', flush=True)

    threading.Thread(target=show, args=[process.stdout]).start()
    return process


def main(argv=None):
    args = support.parser(__doc__, model_dir='cluster', steps=3_000).parse_args(argv)

    cluster = free_addresses()
    print('TF_CONFIG.cluster:', json.dumps(cluster), flush=True)
    processes = {}
    try:
        for task in TASKS:
            flags = ('--model-dir', args.model_dir, '--steps', str(args.steps))
            processes[task] = start(task, cluster, *flags)
        while None in (processes['chief'].poll(), processes['worker'].poll()):
            for task, process in processes.items():
                if process.poll():
                    raise support.Error(f'the {task} ended with status {process.poll()}')
            time.sleep(0.1)
    finally:
        for process in processes.values():
            process.kill()  # a parameter server never ends by itself
            process.wait()

    metrics = tf.estimator.Estimator(model_fn, args.model_dir, params={}).evaluate(eval_input_fn)
    print(f'Off by {metrics["mean_absolute_error"]:.2g} on average, for the numbers 100 to 199')


if __name__ == '__main__':
    support.run(main)
