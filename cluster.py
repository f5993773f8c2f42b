"""Trains on a cluster of three processes: a chief, a worker and a parameter server, each a train.py on this machine.

    python cluster.py

A process learns from TF_CONFIG where the others are and which of them it is. On several machines: train.py on each,
with their addresses in place of 127.0.0.1, and --model-dir on a disk that they share.
"""
from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from typing import Optional, Sequence

import cli
import fast_predict
import latency

TASKS = ('ps', 'chief', 'worker')


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
    parser.add_argument('--steps', type=cli.positive, default=5000, metavar='N',
                        help='train until the step N, of all together (default: %(default)s)')
    args = parser.parse_args(argv)

    addresses = free_addresses(len(TASKS))
    cluster = {task: [address] for task, address in zip(TASKS, addresses)}
    print('TF_CONFIG.cluster:', json.dumps(cluster), flush=True)
    processes = {}
    try:
        for task in TASKS:
            processes[task] = start(task, cluster, '--model-dir', args.model_dir, '--steps', str(args.steps))
        for task in ('chief', 'worker'):
            if processes[task].wait():
                sys.exit(f'the {task} ended with status {processes[task].returncode}')
    finally:
        for process in processes.values():
            process.kill()  # a parameter server never ends by itself

    latency.measure(fast_predict.open_fast_predict(args.model_dir), 100)
    print(f'The model in {args.model_dir} answers 2x')


if __name__ == '__main__':
    main()
