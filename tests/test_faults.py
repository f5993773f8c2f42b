"""What goes wrong while the scripts run: killed, interrupted, damaged files, two at once, a full or read-only disk."""

import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import beyond.export
import export
import fast_predict
import numpy as np
import predict
import pytest
import serve
import train
from beyond import train_and_evaluate
from conftest import slow, snapshot
from estimator_inference import predictor, tf
from iris import train as iris_train
from processes import ROOT, disk
from support.directories import writing_to
from test_scripts import assert_learned
from test_support import SCRIPTS

NUMBERS = np.arange(201.0)[:, None]


def assert_right(export_dir):
    with predictor.from_saved_model(export_dir) as predict_fn:
        np.testing.assert_allclose(
            predict_fn({'number': NUMBERS})['output'], 2 * NUMBERS, rtol=1e-2, atol=1e-2
        )


# Killed and interrupted.


@pytest.mark.parametrize('kills', [1, *slow(10)])
def test_training_killed_goes_on(kills, start, tmp_path):
    """While a checkpoint is written or soon after that: in turn the second and the first that it comes to."""
    rng, model_dir, reached = random.Random(1), str(tmp_path / 'model'), [0]
    for kill in range(kills):
        with start('train.py', '--hidden-units', 1) as process:
            process.wait_for(f'Saving checkpoints for {reached[-1] + 500 - 250 * (kill % 2)}')
            time.sleep(rng.uniform(0, 0.3))
        assert process.returncode in (-signal.SIGKILL, 0), process.stderr
        reached.append(int(tf.train.load_variable(model_dir, 'global_step')))
    assert reached == sorted(reached) and reached[-1] > 0
    assert kills == 1 or len(set(reached)) > 2
    train.main(['--model-dir', model_dir, '--steps', str(reached[-1] + 10)])
    assert tf.train.load_variable(model_dir, 'global_step') == reached[-1] + 10


@pytest.mark.slow
def test_training_killed_learns_all_the_same(start, tmp_path):
    with start('train.py') as process:
        process.wait_for('Saving checkpoints for 500')
    assert process.returncode == -signal.SIGKILL
    train.main(['--model-dir', str(tmp_path / 'model')])
    assert tf.train.load_variable(str(tmp_path / 'model'), 'global_step') == 1000
    assert_learned(tmp_path / 'model')


def test_training_killed_in_its_first_checkpoint_starts_again(trained, tmp_path):
    model_dir = shutil.copytree(
        trained,
        tmp_path / 'model',
        ignore=lambda _, names: [name for name in names if not name.startswith('model.ckpt-0')],
    )
    (model_dir / 'model.ckpt-0.index').write_bytes(b'')
    train.main(['--model-dir', str(model_dir), '--steps', '5'])
    assert tf.train.load_variable(str(model_dir), 'global_step') == 5


@pytest.mark.parametrize('kills', [2, *slow(20)])
def test_export_killed_leaves_nothing_half_written(kills, trained, start, tmp_path, capsys):
    rng, export_dir = random.Random(1), tmp_path / 'saved_model'
    for _ in range(kills):
        with start('export.py', '--model-dir', trained) as process:
            process.wait_for('Calling model_fn')
            time.sleep(rng.uniform(0, 0.2))
        for name in os.listdir(export_dir) if export_dir.exists() else ():
            if name.isdecimal():
                assert_right(str(export_dir / name))
    time.sleep(1)  # for the next timestamp, as a script does that imports TensorFlow first
    assert kills == 2 or any(
        name.startswith('temp-') for name in os.listdir(export_dir)
    )  # some were hit
    export.main(['--model-dir', trained, '--export-dir', str(export_dir)])
    serve.main(['--export-dir', str(export_dir), '--examples', '10'])
    assert 'Average time in serve.py' in capsys.readouterr().out


@pytest.mark.parametrize('name', SCRIPTS)
def test_interrupt_while_tensorflow_is_imported_is_one_line(name, tmp_path):
    (tmp_path / 'tensorflow.py').write_text(
        "import time\nopen('imported', 'w').close()\nwhile True:\n    time.sleep(.1)"
    )
    script = name.split() if name.startswith('-m') else [os.path.join(ROOT, name)]
    with subprocess.Popen(
        [sys.executable, *script],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': f'{tmp_path}:{ROOT}'},
    ) as process:
        while not (tmp_path / 'imported').exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1].splitlines() == [f'{name}: interrupted']
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize(
    'name, args, sign',
    [
        ('train.py', ['--hidden-units', 4, '--model-dir', 'new'], 'Saving checkpoints for 250'),
        ('fast_predict.py', ['--examples', 100_000_000], 'Restoring parameters'),
        ('predict.py', ['--examples', 1_000_000], 'Restoring parameters'),
        (
            '-m beyond.train_and_evaluate',
            ['--model-dir', 'new', '--export-dir', 'best'],
            'Saving checkpoints for 50',
        ),
        *slow(
            ('serve.py', ['--examples', 100_000_000], None),
            ('compare.py', ['--examples', 100_000_000], None),
            ('-m beyond.scale', ['--examples', 100_000_000], None),
            ('-m beyond.cluster', ['--model-dir', 'new'], None),
        ),
    ],
)
def test_interrupt_is_one_line(name, args, sign, trained, exported, start, tmp_path):
    (tmp_path / 'model').symlink_to(trained)
    (tmp_path / 'saved_model').symlink_to(exported)
    with start(name, *args) as process:
        if sign:
            process.wait_for(sign)
        else:
            time.sleep(4)  # it prints nothing meanwhile
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait() == -signal.SIGINT
    assert [line for line in process.stderr.splitlines() if 'INFO' not in line] == [
        f'{name}: interrupted'
    ]


def test_a_reader_of_the_output_that_goes_away_is_no_traceback(exported):
    """A real `python serve.py`: how it ends is Python's own affair."""
    with subprocess.Popen(
        [sys.executable, f'{ROOT}/serve.py', '--export-dir', exported, '--examples', '10'],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == '' and process.wait(60) == 1


# Damaged files.


def flipped(path, step):
    """Flips a byte of a file, one after the other in turn, and puts it back."""
    content = path.read_bytes()
    for position in range(0, len(content), step):
        for mask in (0x01, 0xFF):
            path.write_bytes(
                content[:position] + bytes([content[position] ^ mask]) + content[position + 1 :]
            )
            yield
    path.write_bytes(content)


def assert_right_or_one_line(script, *args):
    """Runs a script, which compares its answers with 2x: it ends well, or with a line on what is damaged."""
    try:
        script.main([str(arg) for arg in args])
    except SystemExit as error:
        assert isinstance(error.code, str) and '\n' not in error.code, error.code
        assert re.search('damaged|no checkpoint|no export in|another network|choose', error.code), (
            error.code
        )


EVERY = [37, *slow(1)]


@pytest.mark.parametrize('step', EVERY)
@pytest.mark.parametrize(
    'file', ['checkpoint', 'model.ckpt-1000.index', 'model.ckpt-1000.data-00000-of-00001']
)
def test_a_byte_of_a_checkpoint_flipped(file, step, trained, tmp_path):
    model_dir = shutil.copytree(trained, tmp_path / 'model')
    for _ in flipped(model_dir / file, step):
        assert_right_or_one_line(fast_predict, '--model-dir', model_dir, '--examples', 1)
    fast_predict.main(['--model-dir', str(model_dir), '--examples', '1'])


@pytest.mark.parametrize('step', EVERY)
@pytest.mark.parametrize(
    'file',
    [
        'variables/variables.index',
        'variables/variables.data-00000-of-00001',
    ],
)
def test_a_byte_of_an_export_flipped(file, step, exported, tmp_path):
    export_dir = shutil.copytree(exported, tmp_path / 'saved_model')
    for _ in flipped(next(export_dir.iterdir()) / file, step):
        assert_right_or_one_line(serve, '--export-dir', export_dir, '--examples', 1)
    serve.main(['--export-dir', str(export_dir), '--examples', '1'])


@pytest.mark.parametrize(
    'damage',
    [
        lambda content: content[: len(content) // 2],
        *slow(lambda content: None, lambda content: b''),
    ],
    ids=['halved', 'removed', 'emptied'],
)
def test_each_file_damaged(damage, trained, exported, tmp_path):
    model_dir = shutil.copytree(
        trained,
        tmp_path / 'model',
        ignore=lambda _, names: [
            name for name in names if re.search(r'ckpt-(250|500|750)\.|events', name)
        ],
    )
    export_dir = shutil.copytree(exported, tmp_path / 'saved_model')
    paths = [path for path in tmp_path.rglob('*') if path.is_file()]
    assert len(paths) >= 11
    for path in paths:
        content = path.read_bytes()
        path.unlink()
        if damage(content) is not None:
            path.write_bytes(damage(content))
        if model_dir in path.parents:
            for script in (predict, fast_predict):
                assert_right_or_one_line(script, '--model-dir', model_dir, '--examples', 1)
            assert_right_or_one_line(train, '--model-dir', model_dir, '--steps', '1')
        else:
            assert_right_or_one_line(serve, '--export-dir', export_dir, '--examples', 1)
        path.write_bytes(content)


# Two at once, and disks.


def test_two_trainings_in_one_directory(start, tmp_path, ends):
    with start('train.py', '--hidden-units', 4) as process:
        process.wait_for('Saving checkpoints for 0')
        assert ends(train, '--model-dir', tmp_path / 'model') == (
            f'another script writes to {tmp_path}/model now: wait until it has ended, or choose another directory'
        )
        process.wait_for('Saving checkpoints for 250')  # which that has not disturbed
    train.main(['--model-dir', str(tmp_path / 'model'), '--steps', '260'])
    assert tf.train.load_variable(str(tmp_path / 'model'), 'global_step') >= 260


@pytest.mark.parametrize(
    'script, flag',
    [
        (export, '--export-dir'),
        (beyond.export, '--export-dir'),
        (train_and_evaluate, '--model-dir'),
        (train_and_evaluate, '--export-dir'),
        (iris_train, '--model-dir'),
        (iris_train, '--export-dir'),
    ],
)
def test_others_wait_for_their_turn_too(script, flag, trained, tmp_path, ends, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'model').symlink_to(trained)
    with writing_to('busy'):
        steps = ['--steps', '1'] if script is iris_train else []
        assert ends(script, flag, 'busy', *steps).startswith('another script writes to busy now')
    assert os.listdir(tmp_path / 'busy') == []


@pytest.fixture
def on_a_disk(script, tmp_path):
    """Runs a script with tmp_path/disk as a small file system of its own; what is there then, tmp_path/after has."""
    for name in ('disk', 'nothing', 'after'):
        (tmp_path / name).mkdir()

    def run(options, content, *args):
        around = functools.partial(
            disk,
            str(tmp_path / 'disk'),
            str(content or tmp_path / 'nothing'),
            options,
            str(tmp_path / 'after'),
        )
        process = script(*args, around=around)
        if 'no file systems of its own' in process.stderr:
            pytest.skip('this machine allows no file systems of its own')
        assert process.returncode in (0, 1) and 'Traceback' not in process.stderr, process.stderr
        return process.returncode, process.stdout, ['', *process.stderr.splitlines()][-1]

    return run


def kilobytes(directory):
    return sum(-(-len(content) // 4096) * 4 for content in snapshot(directory).values())


@pytest.mark.parametrize(
    'size, steps', [(360, 300), *slow((20, 1000), (200, 1000), (310, 1000), (330, 1000))]
)
def test_training_on_a_full_disk(size, steps, on_a_disk, tmp_path):
    status, _, line = on_a_disk(f'size={size}k', None, 'train.py', '--model-dir', tmp_path / 'disk')
    assert status == 1 and re.fullmatch(
        f'stopped at work in {tmp_path}/disk: .*No space left on device', line
    )
    assert not [name for name in snapshot(tmp_path / 'after') if 'temp' in name or '.tmp' in name]
    train.main(['--model-dir', str(tmp_path / 'after'), '--steps', str(steps)])  # with space again
    assert tf.train.load_variable(str(tmp_path / 'after'), 'global_step') >= steps
    if steps == 1000:
        assert_learned(tmp_path / 'after')


def test_more_training_on_a_full_disk_loses_nothing(on_a_disk, trained, tmp_path):
    status, _, line = on_a_disk(
        f'size={kilobytes(trained) + 100}k',
        trained,
        'train.py',
        '--model-dir',
        tmp_path / 'disk',
        '--steps',
        '2000',
    )
    assert status == 1 and line.endswith('No space left on device')
    assert_learned(tmp_path / 'after')
    assert tf.train.load_variable(str(tmp_path / 'after'), 'global_step') >= 1000


@pytest.mark.parametrize('size', [20, *slow(4, 12)])
def test_export_to_a_full_disk_loses_nothing(size, on_a_disk, trained, exported, tmp_path):
    status, _, line = on_a_disk(
        f'size={kilobytes(exported) + size}k',
        exported,
        'export.py',
        '--model-dir',
        trained,
        '--export-dir',
        tmp_path / 'disk',
    )
    assert status == 1 and 'No space left on device' in line
    assert os.listdir(tmp_path / 'after') == os.listdir(exported)
    assert list(snapshot(tmp_path / 'after').values()) == list(snapshot(exported).values())


def test_best_to_a_full_disk(on_a_disk, tmp_path):
    status, _, line = on_a_disk(
        'size=8k',
        None,
        '-m beyond.train_and_evaluate',
        '--model-dir',
        tmp_path / 'model',
        '--export-dir',
        tmp_path / 'disk',
        '--steps',
        50,
    )
    assert status == 1
    assert re.fullmatch(f'stopped at work in {tmp_path}/disk: .*No space left on device.*', line)
    assert os.listdir(tmp_path / 'after') == []


@pytest.mark.parametrize(
    'args',
    [
        ['train.py', '--steps', '2000', '--model-dir'],
        ['export.py', '--model-dir', 'model', '--export-dir'],
        ['-m beyond.train_and_evaluate', '--model-dir', 'new', '--export-dir'],
    ],
    ids=lambda args: args[0],
)
def test_writing_to_a_read_only_disk(args, on_a_disk, trained, tmp_path):
    (tmp_path / 'model').symlink_to(trained)
    assert on_a_disk('ro', trained, *args, tmp_path / 'disk') == (
        1,
        '',
        f"can't write to {tmp_path}/disk (no permission to write): choose another directory",
    )


@pytest.mark.parametrize(
    'name, flag',
    [
        ('serve.py', '--export-dir'),
        *slow(('predict.py', '--model-dir'), ('fast_predict.py', '--model-dir')),
    ],
)
def test_reading_from_a_read_only_disk(name, flag, on_a_disk, trained, exported, tmp_path):
    content = trained if flag == '--model-dir' else exported
    status, printed, _ = on_a_disk('ro', content, name, flag, tmp_path / 'disk', '--examples', 5)
    assert status == 0 and f'Average time in {name}' in printed


def test_training_with_evaluation_in_a_damaged_directory(trained, tmp_path, ends):
    model_dir = shutil.copytree(trained, tmp_path / 'model')
    (model_dir / 'checkpoint').write_text('nonsense')
    assert (
        ends(train_and_evaluate, '--model-dir', model_dir, '--export-dir', tmp_path / 'best')
        == f'{model_dir}/checkpoint is missing or damaged: choose another --model-dir'
    )
    assert not (tmp_path / 'best').exists()
