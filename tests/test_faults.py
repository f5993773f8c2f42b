"""What goes wrong while the scripts run: killed, interrupted, damaged files, two at once, a full or read-only disk."""
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import cli
import export
import fast_predict
import predict
import predictor
import serve
import train
from conftest import ROOT
from iris import train as iris_train
from test_scripts import assert_learned, snapshot
from tf1 import tf

NUMBERS = np.arange(201.)[:, None]


def slow(*arguments):
    return [pytest.param(*each if isinstance(each, tuple) else (each,), marks=pytest.mark.slow) for each in arguments]


@contextlib.contextmanager
def start(name, *args, **options):
    """Starts a script, as `python NAME` does, and kills it at the end of the `with` block."""
    script = name.split() if name.startswith('-m') else [os.path.join(ROOT, name)]
    with subprocess.Popen([sys.executable, *script, *map(str, args)], text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def assert_right(export_dir):
    with predictor.from_saved_model(export_dir) as predict_fn:
        np.testing.assert_allclose(predict_fn({'number': NUMBERS})['output'], 2 * NUMBERS, rtol=1e-3, atol=1e-3)


# Killed and interrupted.

@pytest.mark.slow
def test_training_killed_20_times_resumes(tmp_path):
    rng, reached = random.Random(1), [0]
    for _ in range(20):
        with start('train.py', '--save-checkpoints-steps', 5, '--steps', 1_000_000, cwd=tmp_path,
                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            [step] = re.findall('from step ([0-9,]+) to 1,000,000', process.stdout.readline())
            time.sleep(rng.uniform(0, 3))
        reached.append(int(step.replace(',', '')))
    assert reached == sorted(reached) and len(set(reached)) > 10
    train.main(['--model-dir', str(tmp_path / 'model'), '--steps', str(reached[-1] + 1000)])
    assert_learned(tmp_path / 'model')


def test_training_killed_in_its_first_checkpoint_starts_again(trained, tmp_path, capsys):
    model_dir = shutil.copytree(trained, tmp_path / 'model', ignore=lambda _, names: [
        name for name in names if not name.startswith('model.ckpt-0')])
    (model_dir / 'model.ckpt-0.index').write_bytes(b'')
    train.main(['--model-dir', str(model_dir)])
    assert 'from step 0 to 1,000' in capsys.readouterr().out
    assert_learned(model_dir)


@pytest.mark.slow
def test_export_killed_20_times_leaves_nothing_half_written(trained, tmp_path, capsys):
    rng, export_dir = random.Random(1), tmp_path / 'saved_model'
    for _ in range(20):
        with start('export.py', '--model-dir', trained, cwd=tmp_path, stdout=subprocess.DEVNULL,
                   stderr=subprocess.PIPE) as process:
            for line in process.stderr:
                if 'Calling model_fn' in line:
                    break
            time.sleep(rng.uniform(0, 0.5))
        for name in os.listdir(export_dir) if export_dir.exists() else ():
            if name.isdecimal():
                assert_right(str(export_dir / name))
    assert any(name.startswith('temp-') for name in os.listdir(export_dir))  # some were hit
    export.main(['--model-dir', trained, '--export-dir', str(export_dir)])
    serve.main(['--export-dir', str(export_dir), '--examples', '10'])
    assert 'Average time in serve.py' in capsys.readouterr().out


@pytest.mark.slow
def test_a_reader_during_20_exports_finds_a_whole_one_each_time(trained, tmp_path):
    def write():
        for _ in range(20):
            export.main(['--model-dir', trained, '--export-dir', str(tmp_path), '--keep', '2'])

    export.main(['--model-dir', trained, '--export-dir', str(tmp_path)])
    writer, read = threading.Thread(target=write), []
    writer.start()
    while writer.is_alive():
        read.append(predictor.latest_export(str(tmp_path)))
        assert_right(read[-1])
    print(f'{len(read):,} loads of {len(set(read))} exports')
    assert len(set(read)) > 10 and read == sorted(read)


SCRIPTS = ['train.py', 'export.py', 'predict.py', 'fast_predict.py', 'serve.py', 'compare.py', 'cluster.py',
           '-m iris.train', '-m iris.serve', '-m iris.session', '-m iris.fast', '-m iris.remote']


@pytest.mark.parametrize('name', SCRIPTS)
def test_interrupt_while_tensorflow_is_imported_is_one_line(name, tmp_path):
    (tmp_path / 'tensorflow.py').write_text("import time\nopen('imported', 'w').close()\ntime.sleep(60)")
    environ = {**os.environ, 'PYTHONPATH': f'{tmp_path}:{ROOT}'}
    with start(name, cwd=tmp_path, stderr=subprocess.PIPE, env=environ) as process:
        while not (tmp_path / 'imported').exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1].splitlines() == [f'{name}: interrupted']
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize('name, args, sign', [
    ('train.py', ['--steps', 1_000_000, '--model-dir', 'new'], 'Saving checkpoints for 250'),
    ('fast_predict.py', ['--examples', 100_000_000], 'Restoring parameters'),
    *slow(('predict.py', ['--examples', 1_000_000], 'Restoring parameters'),
          ('serve.py', ['--examples', 100_000_000], None), ('compare.py', ['--examples', 100_000_000], None),
          ('compare.py', ['--scale', '--examples', 100_000_000], None), ('cluster.py', ['--model-dir', 'new'], None))])
def test_interrupt_is_one_line(name, args, sign, trained, exported, tmp_path):
    (tmp_path / 'model').symlink_to(trained)
    (tmp_path / 'saved_model').symlink_to(exported)
    with start(name, *args, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
               start_new_session=True) as process:
        if sign:
            next(line for line in process.stderr if sign in line)
        else:
            time.sleep(6)  # it prints nothing meanwhile
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        lines = process.communicate(timeout=60)[1].splitlines()
    assert [line for line in lines if 'INFO' not in line] == [f'{name}: interrupted']
    assert process.returncode == -signal.SIGINT


def test_a_reader_of_the_output_that_goes_away_is_no_traceback(exported):
    with start('serve.py', '--export-dir', exported, '--examples', 10, stdout=subprocess.PIPE,
               stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == '' and process.wait(60) == 1


# Damaged files.

def flipped(path, step):
    """Flips a byte of a file, one after the other in turn, and puts it back."""
    content = path.read_bytes()
    for position in range(0, len(content), step):
        for mask in (0x01, 0xff):
            path.write_bytes(content[:position] + bytes([content[position] ^ mask]) + content[position + 1:])
            yield
    path.write_bytes(content)


def assert_right_or_one_line(script, *args):
    """Runs a script, which compares its answers with 2x: it ends well, or with a line on what is damaged."""
    try:
        script.main([str(arg) for arg in args])
    except SystemExit as error:
        assert isinstance(error.code, str) and '\n' not in error.code, error.code
        assert re.search('damaged|no checkpoint|no complete export|another network|choose', error.code), error.code


EVERY = [37, *slow(1)]


@pytest.mark.parametrize('step', EVERY)
@pytest.mark.parametrize('file', ['checkpoint', 'model.ckpt-1000.index', 'model.ckpt-1000.data-00000-of-00001'])
def test_a_byte_of_a_checkpoint_flipped(file, step, trained, tmp_path):
    model_dir = shutil.copytree(trained, tmp_path / 'model')
    for _ in flipped(model_dir / file, step):
        assert_right_or_one_line(fast_predict, '--model-dir', model_dir, '--examples', 1)
    fast_predict.main(['--model-dir', str(model_dir), '--examples', '1'])


@pytest.mark.parametrize('step', EVERY)
@pytest.mark.parametrize('file', ['saved_model.pb', 'assets.extra/sha256sum', 'variables/variables.index',
                                  'variables/variables.data-00000-of-00001'])
def test_a_byte_of_an_export_flipped(file, step, exported, tmp_path):
    export_dir = shutil.copytree(exported, tmp_path / 'saved_model')
    for _ in flipped(next(export_dir.iterdir()) / file, step):
        assert_right_or_one_line(serve, '--export-dir', export_dir, '--examples', 1)
    serve.main(['--export-dir', str(export_dir), '--examples', '1'])


@pytest.mark.parametrize('damage', [lambda content: content[:len(content) // 2],
                                    *slow(lambda content: None, lambda content: b'')],
                         ids=['halved', 'removed', 'emptied'])
def test_each_file_damaged(damage, trained, exported, tmp_path):
    model_dir = shutil.copytree(trained, tmp_path / 'model')
    export_dir = shutil.copytree(exported, tmp_path / 'saved_model')
    paths = [path for path in tmp_path.rglob('*') if path.is_file() and 'events' not in path.name]
    assert len(paths) > 15
    for path in paths:
        content = path.read_bytes()
        path.unlink()
        if damage(content) is not None:
            path.write_bytes(damage(content))
        for script in (predict, fast_predict):
            assert_right_or_one_line(script, '--model-dir', model_dir, '--examples', 1)
        assert_right_or_one_line(train, '--model-dir', model_dir)
        assert_right_or_one_line(serve, '--export-dir', export_dir, '--examples', 1)
        path.write_bytes(content)


# Two at once, and disks.

def test_two_trainings_in_one_directory(tmp_path, ends):
    with start('train.py', '--steps', 1_000_000, cwd=tmp_path, stderr=subprocess.DEVNULL):
        while not (tmp_path / 'model/model.ckpt-0.index').exists():
            time.sleep(0.01)
        assert ends(train, '--model-dir', tmp_path / 'model') == (
            f'another script writes to {tmp_path}/model now: wait until it has ended, or choose another directory')
    train.main(['--model-dir', str(tmp_path / 'model'), '--steps', '3000'])
    assert_learned(tmp_path / 'model')


@pytest.mark.parametrize('script, flag', [(export, '--export-dir'), (iris_train, '--model-dir'),
                                          (iris_train, '--export-dir')])
def test_others_wait_for_their_turn_too(script, flag, trained, tmp_path, ends, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'model').symlink_to(trained)
    with cli.writing_to('busy'):
        assert ends(script, flag, 'busy').startswith('another script writes to busy now')
    assert os.listdir(tmp_path / 'busy') == []


def on_a_disk(options, content, directory, *command):
    """Runs a script with `directory` as a small file system of its own; returns the process and what was there then."""
    after = os.path.join(os.path.dirname(directory), 'after')
    process = subprocess.run(
        ['unshare', '--map-root-user', '--mount', 'sh', '-c',
         'disk=$1; after=$4; mount -t tmpfs none "$disk" && cp -r "$2/." "$disk" && mount -o "remount,$3" "$disk" || '
         'exit 99; shift 4; "$@"; status=$?; cp -r "$disk/." "$after"; exit $status',
         'sh', directory, content, options, after, sys.executable, os.path.join(ROOT, command[0]), *command[1:]],
        text=True, capture_output=True, timeout=120)
    if process.returncode == 99 or 'unshare' in process.stderr:
        pytest.skip(f'file systems of its own are not allowed here: {process.stderr}')
    return process, after


@pytest.fixture
def disk(tmp_path):
    for name in ('disk', 'nothing', 'after'):
        (tmp_path / name).mkdir()
    return tmp_path / 'disk'


@pytest.mark.parametrize('kilobytes', [360, *slow(20, 200, 310, 400, 430)])
def test_training_on_a_full_disk(kilobytes, disk, tmp_path):
    process, after = on_a_disk(f'size={kilobytes}k', tmp_path / 'nothing', disk, 'train.py', '--model-dir', disk)
    assert process.returncode == 1 and 'Traceback' not in process.stderr
    assert re.fullmatch(f'stopped at work in {disk}: .*No space left on device', process.stderr.splitlines()[-1])
    assert not [name for name in snapshot(after) if 'temp' in name or '.tmp' in name]
    train.main(['--model-dir', after])  # with space again
    assert_learned(after)


def test_more_training_on_a_full_disk_loses_nothing(disk, trained):
    size = sum(-(-len(content) // 4096) * 4 for content in snapshot(trained).values())
    process, after = on_a_disk(f'size={size + 100}k', trained, disk, 'train.py', '--model-dir', disk, '--steps', '2000')
    assert process.returncode == 1 and 'No space left on device' in process.stderr.splitlines()[-1]
    assert_learned(after)
    assert tf.train.load_variable(after, 'global_step') >= 1000


@pytest.mark.parametrize('kilobytes', [20, *slow(4, 12)])
def test_export_to_a_full_disk_loses_nothing(kilobytes, disk, trained, exported, tmp_path):
    size = sum(-(-len(content) // 4096) * 4 for content in snapshot(exported).values())
    process, after = on_a_disk(f'size={size + kilobytes}k', exported, disk, 'export.py', '--model-dir', trained,
                               '--export-dir', disk)
    assert process.returncode == 1 and 'No space left on device' in process.stderr.splitlines()[-1]
    assert os.listdir(after) == os.listdir(exported)
    assert list(snapshot(after).values()) == list(snapshot(exported).values())


def test_best_to_a_full_disk(disk, tmp_path):
    process, after = on_a_disk('size=8k', tmp_path / 'nothing', disk,
                               'train.py', '--model-dir', tmp_path / 'model', '--best', disk)
    assert process.returncode == 1
    assert re.fullmatch(f'stopped at work in {disk}: .*No space left on device.*', process.stderr.splitlines()[-1])
    assert os.listdir(after) == []


def test_writing_to_a_read_only_disk(disk, trained, exported, tmp_path):
    for args in (['train.py', '--steps', '2000', '--model-dir'], ['export.py', '--model-dir', trained, '--export-dir'],
                 ['train.py', '--model-dir', tmp_path / 'model', '--best']):
        process, after = on_a_disk('ro', trained, disk, *args, disk)
        assert process.returncode == 1
        assert process.stderr.splitlines()[-1] == \
            f"can't write to {disk} (no permission to write): choose another directory"


@pytest.mark.slow
def test_reading_from_a_read_only_disk(disk, trained, exported):
    for content, args in ((trained, ['predict.py', '--model-dir']), (trained, ['fast_predict.py', '--model-dir']),
                          (exported, ['serve.py', '--export-dir'])):
        process, _ = on_a_disk('ro', content, disk, *args, disk, '--examples', '5')
        assert f'Average time in {args[0]}' in process.stdout, process.stderr
