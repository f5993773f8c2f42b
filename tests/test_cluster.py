"""Training in a cluster that TF_CONFIG describes: real processes on loopback."""

import json
import os
import shutil
import socket
import time

import pytest
from conftest import snapshot
from test_scripts import assert_learned

from beyond import cluster, train_and_evaluate
from estimator_inference import tf
from support.errors import command

WORKER = json.dumps(
    {
        'cluster': {'chief': ['127.0.0.1:1'], 'ps': ['127.0.0.1:2'], 'worker': ['127.0.0.1:3']},
        'task': {'type': 'worker', 'index': 0},
    }
)


class Output:
    """What the tasks of a cluster print."""

    def __init__(self, capsys):
        self._capsys, self._text = capsys, ''

    def read(self):
        self._text += self._capsys.readouterr().out
        return self._text

    def wait_for(self, task, words, seconds=120):
        """Waits until a task prints a line with these words, from now on."""
        seen, end = len(self.read()), time.monotonic() + seconds
        while not any(
            line.startswith(task) and words in line for line in self.read()[seen:].splitlines()
        ):
            assert time.monotonic() < end, self.read()
            time.sleep(0.1)


@pytest.mark.slow
def test_make_cluster(tmp_path, capsys):
    cluster.main(['--model-dir', str(tmp_path)])
    printed = capsys.readouterr().out
    assert 'chief  | Training to step 10,000 on CPU, as chief 0' in printed
    assert printed.endswith(f'The model in {tmp_path} answers 2x\n')
    for task in ('chief', 'worker'):  # both did steps
        assert any(line.startswith(task) and ', step = ' in line for line in printed.splitlines())
    assert tf.train.load_variable(str(tmp_path), 'global_step') >= 10_000
    assert_learned(tmp_path)


@pytest.mark.slow
def test_a_killed_worker_rejoins_and_an_evaluator_evaluates(tmp_path, capsys):
    output, args = Output(capsys), ('--model-dir', str(tmp_path), '--steps', '10000')
    addresses = {task: [address] for task, address in zip(cluster.TASKS, cluster.free_addresses(3))}
    tasks = {task: cluster.start(task, addresses, *args) for task in (*cluster.TASKS, 'evaluator')}
    try:
        output.wait_for('worker', ', step = ')
        tasks['worker'].kill()
        output.wait_for('chief', ', step = ')  # without it
        tasks['worker'] = cluster.start('worker', addresses, *args)
        output.wait_for('worker', ', step = ')
        for task in ('chief', 'worker', 'evaluator'):
            assert tasks[task].wait(300) == 0
        assert tasks['ps'].poll() is None
    finally:
        for task in tasks.values():
            task.kill()
    assert tf.train.load_variable(str(tmp_path), 'global_step') >= 10_000
    assert_learned(tmp_path)
    assert 'evaluator | INFO:tensorflow:Saving dict for global step 10' in output.read()


@pytest.mark.parametrize(
    'tf_config, words',
    [
        ('{', 'Expecting property name'),
        ('', 'Expecting value'),
        ('[]', "'list' object"),
        ('{"cluster": 5}', '`cluster` must be'),
        ('{"cluster": {"chief": ["localhost:1"], "ps": ["localhost:2"]}}', 'task type must be set'),
        (
            '{"cluster": {"chief": ["localhost:1"]}, "task": {"type": "wrong", "index": 0}}',
            'not a valid task_type',
        ),
        (
            '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 0}}',
            'must have one "chief"',
        ),
        (
            '{"cluster": {"chief": ["localhost:1"], "worker": ["localhost:2"]}, "task": {"type": "worker", "index": 0}}',
            'no "ps" to keep the variables',
        ),
    ],
)
def test_wrong_tf_config(tf_config, words, tmp_path, ends, monkeypatch):
    monkeypatch.setenv('TF_CONFIG', tf_config)
    line = ends(
        train_and_evaluate, '--model-dir', tmp_path / 'model', '--export-dir', tmp_path / 'best'
    )
    assert line.startswith(f'TF_CONFIG={tf_config} is no cluster (') and words in line
    assert line.endswith(f'): for an example, run {command("-m beyond.cluster")}')
    assert os.listdir(tmp_path) == []


def test_an_address_in_use(tmp_path, ends, monkeypatch):
    with socket.create_server(('127.0.0.1', 0)) as used:
        addresses = {'chief': [f'127.0.0.1:{used.getsockname()[1]}'], 'ps': ['127.0.0.1:1']}
        monkeypatch.setenv(
            'TF_CONFIG', json.dumps({'cluster': addresses, 'task': {'type': 'chief', 'index': 0}})
        )
        assert 'failed: Could not start gRPC server' in ends(
            train_and_evaluate, '--model-dir', tmp_path
        )


def test_an_evaluator_of_a_trained_model(trained, tmp_path, monkeypatch, caplog):
    addresses = {'chief': ['127.0.0.1:1'], 'ps': ['127.0.0.1:2']}
    monkeypatch.setenv(
        'TF_CONFIG', json.dumps({'cluster': addresses, 'task': {'type': 'evaluator', 'index': 0}})
    )
    model_dir = shutil.copytree(trained, tmp_path / 'model')
    before = snapshot(model_dir)
    train_and_evaluate.main(['--model-dir', str(model_dir), '--steps', '1000'])
    assert {
        name: content for name, content in snapshot(model_dir).items() if '/eval/' not in name
    } == before
    assert 'Saving dict for global step 1000' in caplog.text


def test_no_cluster_is_one_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('TF_CONFIG', '{}')
    train_and_evaluate.main(
        [
            '--model-dir',
            str(tmp_path / 'model'),
            '--export-dir',
            str(tmp_path / 'best'),
            '--steps',
            '60',
        ]
    )
    assert 'Exported the best model to ' in capsys.readouterr().out


@pytest.mark.parametrize(
    'args, printed',
    [
        (['predict.py', '--examples', '2'], 'Average time'),
        (['train.py', '--model-dir', 'new', '--steps', '2'], 'Trained'),
        *(
            pytest.param(*arguments, marks=pytest.mark.slow)
            for arguments in [
                (['export.py'], 'Exported'),
                (['fast_predict.py', '--examples', '10'], 'Average time'),
                (['-m beyond.export'], 'Exported'),
                (['-m iris.train', '--steps', '10'], 'Exported'),
            ]
        ),
    ],
    ids=lambda args: args[0],
)
def test_the_other_scripts_wait_for_no_cluster(args, printed, trained, tmp_path, script):
    (tmp_path / 'model').symlink_to(trained)
    process = script(*args, TF_CONFIG=WORKER)
    assert process.returncode == 0 and printed in process.stdout, process.stderr


def test_a_task_that_dies_ends_the_others(tmp_path, monkeypatch):
    """With a shell script for Python, of which the worker dies and the others wait."""
    python = tmp_path / 'python'
    python.write_text(f"""#!/bin/sh
case $TF_CONFIG in *'"type": "worker"'*) exit 3;; esac
touch {tmp_path}/pid-$$
exec sleep 60
""")
    python.chmod(0o755)
    monkeypatch.setattr(cluster.sys, 'executable', str(python))
    with pytest.raises(SystemExit, match='^the worker ended with status 3$'):
        cluster.main(['--model-dir', str(tmp_path / 'model')])
    for path in tmp_path.glob('pid-*'):
        for _ in range(1000):
            try:
                state = open(f'/proc/{path.name[4:]}/stat').read().split()[2]
            except (FileNotFoundError, ProcessLookupError):  # the latter between open and read
                break
            if state == 'Z':  # ended, and nobody has asked for its status yet
                break
            time.sleep(0.01)
        else:
            raise AssertionError(f'{path} still runs')


@pytest.mark.slow
def test_a_parameter_server_that_dies_ends_the_others(tmp_path, monkeypatch):
    with socket.create_server(('127.0.0.1', 0)) as used:
        addresses = [f'127.0.0.1:{used.getsockname()[1]}', *cluster.free_addresses(2)]
        monkeypatch.setattr(cluster, 'free_addresses', lambda count: addresses)
        with pytest.raises(SystemExit, match='the ps ended with status 1'):
            cluster.main(['--model-dir', str(tmp_path)])
