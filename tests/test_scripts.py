"""Each script whole: what it prints, what it writes, and how it ends where it can't go on."""
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import compare
import export
import fast_predict
import latency
import model
import predict
import predictor
import serve
import train
from conftest import ROOT
from tf1 import tf

TIMING = (r'Average time in {}: [\d.]+ (s|ms|us) per example \(median [\d.]+ (s|ms|us), p99 [\d.]+ (s|ms|us), '
          r'{} examples{}; load [\d.]+ (s|ms|us), first call [\d.]+ (s|ms|us)\)\n')


def weights(model_dir):
    checkpoint = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(model_dir)))
    return checkpoint.get_tensor('dense/kernel'), checkpoint.get_tensor('dense/bias')


def assert_learned(model_dir):
    kernel, bias = weights(model_dir)
    x = np.arange(201)
    assert np.all(np.abs(np.stack([x, x], 1) @ kernel + bias - 2 * x[:, None]) <= 1e-3 * np.maximum(x, 1)[:, None])


def snapshot(directory):
    """The names and contents of all files below a directory."""
    return {os.path.join(at, name): open(os.path.join(at, name), 'rb').read()
            for at, _, names in os.walk(directory) for name in names}


def test_train_learns_2x(trained):
    assert_learned(trained)
    assert tf.train.load_variable(trained, 'global_step') == 1000
    assert sorted(name for name, _ in tf.train.list_variables(trained) if 'Adam' not in name and 'beta' not in name) \
        == ['dense/bias', 'dense/kernel', 'global_step']


def test_train_twice_gives_the_same_weights_and_another_seed_gives_others(trained, tmp_path, capsys):
    train.main(['--model-dir', str(tmp_path / 'again')])
    assert 'Training on CPU, from step 0 to 1,000\nTrained: f([x, y]) = ' in capsys.readouterr().out
    for ours, theirs in zip(weights(trained), weights(tmp_path / 'again')):
        np.testing.assert_array_equal(ours, theirs)
    train.main(['--model-dir', str(tmp_path / 'other'), '--seed', '2'])
    assert weights(tmp_path / 'other')[0][0] != weights(trained)[0][0]
    assert_learned(tmp_path / 'other')


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(20))
def test_train_converges_with_each_seed(seed, tmp_path):
    train.main(['--model-dir', str(tmp_path), '--seed', str(seed)])
    assert_learned(tmp_path)


def test_train_says_that_it_is_trained_and_goes_on_when_asked(trained, tmp_path, capsys):
    model_dir = shutil.copytree(trained, tmp_path / 'model')
    before = snapshot(model_dir)
    train.main(['--model-dir', str(model_dir)])
    assert capsys.readouterr().out == (
        f'{model_dir} is trained already: 1,000 steps. To go on: python train.py --model-dir {model_dir} --steps 2000. '
        f'To train afresh: rm -r {model_dir}\n')
    assert snapshot(model_dir) == before
    train.main(['--model-dir', str(model_dir), '--steps', '1100'])
    assert 'from step 1,000 to 1,100' in capsys.readouterr().out
    assert tf.train.load_variable(str(model_dir), 'global_step') == 1100
    assert_learned(model_dir)


def test_train_resumes_after_being_killed(tmp_path):
    command = [sys.executable, os.path.join(ROOT, 'train.py'), '--model-dir', str(tmp_path / 'model')]
    with subprocess.Popen([*command, '--steps', '100000'], stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / 'model/model.ckpt-500.index').exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    reached = int(tf.train.load_variable(str(tmp_path / 'model'), 'global_step'))
    resumed = subprocess.run([*command, '--steps', str(reached + 500)], capture_output=True, text=True, timeout=120)
    assert f'from step {reached:,} to {reached + 500:,}' in resumed.stdout
    assert tf.train.load_variable(str(tmp_path / 'model'), 'global_step') == reached + 500
    assert_learned(tmp_path / 'model')


def test_train_on_a_gpu_that_is_not_there(tmp_path, ends):
    if tf.config.experimental.list_physical_devices('GPU'):
        pytest.skip('this machine has a GPU')
    assert '--device gpu: TensorFlow sees no GPU' in ends(train, '--model-dir', tmp_path / 'model', '--device', 'gpu')
    assert not (tmp_path / 'model').exists()


def test_gpu_memory_is_allocated_as_needed():
    name, session_config = model.device_config('cpu')
    assert name == 'CPU' and session_config.device_count['GPU'] == 0 and session_config.gpu_options.allow_growth


def test_evaluation_metrics(trained):
    metrics = model.build_estimator(trained).evaluate(lambda: train.train_input_fn(0).take(5))
    assert metrics['mean_absolute_error'] < 1e-3 and metrics['root_mean_squared_error'] < 1e-3
    assert metrics['global_step'] == 1000


def test_model_fn_takes_features_in_a_dict(trained):
    estimator = model.build_estimator(trained)
    predictions = estimator.predict(lambda: tf.data.Dataset.from_tensors({'feature': [[3., 3.], [50., 50.]]}))
    np.testing.assert_allclose([prediction[0] for prediction in predictions], [6, 100], rtol=1e-3)


def test_export_writes_one_signature(exported, trained, capsys, tmp_path):
    [timestamp] = os.listdir(exported)
    assert re.fullmatch(r'\d{10}', timestamp)
    shown = subprocess.run([os.path.join(os.path.dirname(sys.executable), 'saved_model_cli'), 'show', '--dir',
                            os.path.join(exported, timestamp), '--all'], capture_output=True, text=True).stdout
    assert "inputs['number'] tensor_info:\n        dtype: DT_FLOAT\n        shape: (-1, 1)" in shown
    assert "outputs['output'] tensor_info:\n        dtype: DT_FLOAT\n        shape: (-1, 1)" in shown
    assert 'Method name is: tensorflow/serving/predict' in shown
    export.main(['--model-dir', trained, '--export-dir', str(tmp_path / 'saved_model')])
    path = predictor.latest_export(str(tmp_path / 'saved_model'))
    assert f'Exported to {path}. ' in capsys.readouterr().out


def test_predict_restores_the_checkpoint_for_each_example(trained, script):
    process = script('predict.py', '--model-dir', trained, '--examples', 3)
    assert re.fullmatch(TIMING.format('predict.py', 3, ''), process.stdout), process.stderr
    # The first call, which is timed apart, and three.
    assert process.stderr.count(f'Restoring parameters from {trained}/model.ckpt-1000') == 4


def test_fast_predict_restores_it_once(trained, script):
    process = script('fast_predict.py', '--model-dir', trained, '--examples', 50, '--batch', 5)
    single, batch, _ = process.stdout.split('\n')
    assert re.fullmatch(TIMING.format('fast_predict.py', 50, ''), single + '\n'), process.stderr
    assert re.fullmatch(TIMING.format('fast_predict.py', 50, ' in calls of 5'), batch + '\n')
    assert process.stderr.count('Restoring parameters') == 2  # one for each of the two FastPredicts
    assert 'WARNING' not in process.stderr


def test_serve(exported, script):
    process = script('serve.py', '--export-dir', exported, '--examples', 100)
    assert re.fullmatch(TIMING.format('serve.py', 100, ''), process.stdout)
    assert process.stderr == ''


def test_serve_needs_no_estimator(exported):
    code = (f'import sys, serve; serve.main(["--export-dir", {exported!r}, "--examples", "1"]); '
            'print(sorted({"model", "tf1", "tf_keras", "tensorflow_estimator"} & set(sys.modules)))')
    process = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
                             env={key: value for key, value in os.environ.items() if key != 'TF_USE_LEGACY_KERAS'})
    assert process.stdout.endswith('\n[]\n'), process.stderr


def test_serve_takes_the_newest_complete_export(exported, tmp_path, capsys):
    [timestamp] = os.listdir(exported)
    for name in ('temp-9999999999', '5', 'notes'):
        shutil.copytree(os.path.join(exported, timestamp), tmp_path / name)
    shutil.copytree(os.path.join(exported, timestamp), tmp_path / '9999999998',
                    ignore=shutil.ignore_patterns('variables.index'))
    (tmp_path / '9999999999').write_text('a stray file')
    serve.main(['--export-dir', str(tmp_path), '--examples', '1'])
    assert predictor.latest_export(str(tmp_path)) == str(tmp_path / '5')
    assert 'Average time in serve.py' in capsys.readouterr().out


@pytest.mark.parametrize('script_module', [predict, fast_predict, serve])
def test_wrong_answers_end_a_timed_script(script_module, tmp_path, ends):
    # A model that was trained for one step only.
    train.main(['--model-dir', str(tmp_path / 'model'), '--steps', '1'])
    export.main(['--model-dir', str(tmp_path / 'model'), '--export-dir', str(tmp_path / 'saved_model')])
    flag = ('--export-dir', tmp_path / 'saved_model') if script_module is serve else ('--model-dir', tmp_path / 'model')
    assert re.search(r'f\(100\) = \S+, expected 200', ends(script_module, *flag, '--examples', '5'))


@pytest.mark.parametrize('script_module', [export, predict, fast_predict])
def test_no_checkpoint(script_module, tmp_path, ends):
    for model_dir in (tmp_path / 'missing', tmp_path):
        assert ends(script_module, '--model-dir', model_dir) == \
            f'no checkpoint in {model_dir}: run python train.py --model-dir {model_dir}'
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('damage', ['remove', 'empty', 'truncate', 'flip'])
@pytest.mark.parametrize('file', ['model.ckpt-1000.index', 'model.ckpt-1000.data-00000-of-00001'])
@pytest.mark.parametrize('script_module', [train, export, predict, fast_predict])
def test_damaged_checkpoint(script_module, file, damage, trained, tmp_path, ends):
    model_dir = shutil.copytree(trained, tmp_path / 'model')
    spoil(model_dir / file, damage)
    before = snapshot(tmp_path)
    args = ['--model-dir', model_dir] + (['--steps', '2000'] if script_module is train else [])
    line = ends(script_module, *args)
    assert re.search(r'(no checkpoint in|damaged)', line) and 'python train.py' in line
    assert snapshot(tmp_path) == before


def test_no_export(exported, tmp_path, ends):
    (tmp_path / 'temp-123').mkdir()
    for export_dir in (tmp_path / 'missing', tmp_path):
        line = ends(serve, '--export-dir', export_dir)
        assert str(export_dir) in line and f'run python export.py --export-dir {export_dir}' in line


@pytest.mark.parametrize('damage', ['remove', 'empty', 'truncate'])
@pytest.mark.parametrize('file', ['saved_model.pb', 'variables/variables.index',
                                  'variables/variables.data-00000-of-00001'])
def test_damaged_export(file, damage, exported, tmp_path, ends):
    export_dir = shutil.copytree(exported, tmp_path / 'saved_model')
    spoil(next(export_dir.iterdir()) / file, damage)
    assert 'run python export.py' in ends(serve, '--export-dir', export_dir)


def spoil(path, damage):
    content = path.read_bytes()
    if damage == 'remove':
        path.unlink()
    elif damage == 'flip':
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0xff]) + content[middle + 1:])
    else:
        path.write_bytes(content[:len(content) // 2] if damage == 'truncate' else b'')


@pytest.mark.parametrize('script_module', [train, export, predict, fast_predict, serve])
def test_bad_flags(script_module, tmp_path, ends):
    (tmp_path / 'file').write_text('')
    directory = '--export-dir' if script_module is serve else '--model-dir'
    assert f'argument {directory}: expected a directory, and ' in ends(script_module, directory, tmp_path / 'file')
    assert f'{tmp_path}/file' in ends(script_module, directory, tmp_path / 'file' / 'below')
    assert 'unrecognized arguments: --nonsense' in ends(script_module, '--nonsense')
    if script_module is not export:
        count = '--steps' if script_module is train else '--examples'
        for value in ('0', '-1', '1.5', 'many', ''):
            assert f'argument {count}: expected a whole number from 1 on' in ends(script_module, f'{count}={value}')
    assert os.listdir(tmp_path) == ['file']


def test_unknown_device(tmp_path, ends):
    assert "invalid choice: 'tpu'" in ends(train, '--model-dir', tmp_path / 'model', '--device', 'tpu')


@pytest.mark.parametrize('name', ['train.py', 'export.py', 'predict.py', 'fast_predict.py', 'serve.py'])
def test_help(name, script, tmp_path):
    process = script(name, '--help')
    assert f'python {name}' in process.stdout and '(default: ' in process.stdout
    assert process.stderr == '' and process.returncode == 0 and os.listdir(tmp_path) == []


@pytest.mark.skipif(not shutil.which('make'), reason='there is no make')
@pytest.mark.parametrize('python', ['nonsense', 'false'])
def test_make_says_which_pythons_will_do(python, tmp_path):
    process = subprocess.run(['make', 'run', f'PYTHON={python}', f'VENV={tmp_path}/venv'], cwd=ROOT, text=True,
                             capture_output=True)
    assert process.returncode != 0 and os.listdir(tmp_path) == []
    assert process.stderr.splitlines()[0] == (
        f'TensorFlow 2.21 needs Python 3.10, 3.11, 3.12 or 3.13, which {python} is not: '
        'install one, or name one: make PYTHON=/path/to/python3.12')


def test_an_export_of_another_model_is_refused(tmp_path, ends):
    with tf.Graph().as_default(), tf.Session() as session:
        x, y = tf.placeholder(tf.float32, [None, 1]), tf.placeholder(tf.float32, [None, 1])
        for name, inputs, outputs in (('1', {'x': x, 'y': y}, {'output': x + y}), ('2', {'x': x}, {'nonsense': x * 2})):
            tf.saved_model.simple_save(session, str(tmp_path / name / '1'), inputs, outputs)
    assert "takes ['x', 'y'] and gives ['output']" in ends(serve, '--export-dir', tmp_path / '1')
    assert "takes ['x'] and gives ['nonsense']" in ends(serve, '--export-dir', tmp_path / '2')


def test_a_failing_first_call_closes_what_was_opened():
    closed = []

    class Opened:
        def __enter__(self):
            return lambda numbers: [0 for _ in numbers]

        def __exit__(self, *exc_info):
            closed.append(exc_info[0])

    with pytest.raises(latency.WrongAnswer):
        latency.measure(Opened(), examples=1)
    assert closed == [latency.WrongAnswer]


def test_measure_counts_what_it_says():
    asked = []

    class Opened:
        def __enter__(self):
            return lambda numbers: asked.append(numbers) or [2 * number for number in numbers]

        def __exit__(self, *exc_info):
            pass

    timing = latency.measure(Opened(), examples=10, batch=4)
    first, *others = asked
    assert first == [100, 101, 102, 103]  # timed apart
    assert others == [[100, 101, 102, 103], [104, 105, 106, 107], [108, 109, 110, 111]]  # 10 at least
    assert timing.batch == 4 and len(timing.examples) == 3


def test_check_catches_wrong_answers():
    latency.check([0, 100], [0.0005, 200.05])
    for predictions in ([0.0, 201.0], [0.1, 200.0], [float('nan'), 200.0], [0.0], [0.0, 200.0, 1.0]):
        with pytest.raises(latency.WrongAnswer):
            latency.check([0, 100], predictions)


def test_seconds():
    assert [latency.seconds(value) for value in (2.5, 0.0651, 0.00999, 6.04e-6, 14.4e-6, 4e-7, 0.9996, 4.3e-8)] == \
        ['2.5 s', '65 ms', '10 ms', '6.0 us', '14 us', '0.4 us', '1.0 s', '43 ns']


def test_my_service_starts_as_the_posts_does():
    assert list(latency.my_service(10)) == list(range(100, 110))


def test_what_tensorflow_1_15_wrote_answers_through_every_protocol(capsys):
    written = os.path.join(ROOT, 'tests/data/tensorflow_1_15')
    before = snapshot(written)
    compare.main(['--model-dir', f'{written}/model', '--export-dir', f'{written}/saved_model', '--examples', '100'])
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(compare.PROTOCOLS)
    assert_learned(f'{written}/model')
    assert snapshot(written) == before
