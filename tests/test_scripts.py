"""The six scripts: what they print, what they write, and how they end where they can't go on."""

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf2
from conftest import snapshot
from processes import ROOT

import support
import export
import fast_predict
import predict
import serve
import train
from support import timing
from beyond import serve as beyond_serve
from estimator_inference import exports, predictor, tf
from model import model_fn
from support.errors import command

SAVED_MODEL_CLI = os.path.join(os.path.dirname(sys.executable), 'saved_model_cli')
TIME = r'[\d.]+ (s|ms|us)'


def average(name, calls):
    """The lines that a script ends with."""
    return (
        rf'f\(100\) = 200.00\nf\(101\) = 202.00\nf\(102\) = 204.00\n'
        rf'Average time in {name}: [\d.]+s\n\({calls} calls: median {TIME}, the first {TIME}\)\n'
    )


def weights(model_dir, step=None):
    checkpoint = tf.train.load_checkpoint(
        f'{model_dir}/model.ckpt-{step}' if step else tf.train.latest_checkpoint(str(model_dir))
    )
    return checkpoint.get_tensor('dense/kernel'), checkpoint.get_tensor('dense/bias')


def assert_learned(model_dir):
    kernel, bias = weights(model_dir)
    x = np.arange(201)
    assert np.all(
        np.abs(np.stack([x, x], 1) @ kernel + bias - 2 * x[:, None])
        <= 1e-2 * np.maximum(x, 1)[:, None]
    )


# The model.


def test_train_learns_2x(trained):
    assert_learned(trained)
    assert tf.train.load_variable(trained, 'global_step') == 1000
    assert sorted(
        name
        for name, _ in tf.train.list_variables(trained)
        if 'Adam' not in name and 'beta' not in name
    ) == ['dense/bias', 'dense/kernel', 'global_step']


def test_train_twice_gives_the_same_weights_and_another_seed_gives_others(
    trained, tmp_path, capsys
):
    train.main(['--model-dir', str(tmp_path / 'again'), '--steps', '250'])
    assert capsys.readouterr().out == f'Trained on CPU: {tmp_path}/again/model.ckpt-250\n'
    for ours, theirs in zip(weights(trained, 250), weights(tmp_path / 'again')):
        np.testing.assert_array_equal(ours, theirs)
    train.main(['--model-dir', str(tmp_path / 'other'), '--steps', '1', '--seed', '2'])
    train.main(['--model-dir', str(tmp_path / 'first'), '--steps', '1'])
    assert weights(tmp_path / 'other')[0][0] != weights(tmp_path / 'first')[0][0]


@pytest.fixture
def examples_from_memory(monkeypatch):
    """Calls train_generator_fn once, and not in each epoch: the same training in a fifth of the time."""
    from_generator = tf.data.Dataset.from_generator
    monkeypatch.setattr(
        tf.data.Dataset, 'from_generator', lambda *args: from_generator(*args).cache()
    )


@pytest.mark.slow
def test_examples_from_memory_train_the_same(examples_from_memory, trained, tmp_path):
    train.main(['--model-dir', str(tmp_path)])
    for ours, theirs in zip(weights(tmp_path), weights(trained)):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(20))
def test_train_converges_with_each_seed(seed, examples_from_memory, tmp_path):
    train.main(['--model-dir', str(tmp_path), '--seed', str(seed)])
    assert_learned(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('hidden_units', [1, 4, 64])
@pytest.mark.parametrize('seed', range(20))
def test_hidden_layer_converges_with_each_seed(seed, hidden_units, examples_from_memory, tmp_path):
    train.main(
        ['--model-dir', str(tmp_path), '--seed', str(seed), '--hidden-units', str(hidden_units)]
    )
    assert_hidden_learned(tmp_path, hidden_units)


def assert_hidden_learned(model_dir, hidden_units):
    numbers = np.arange(201, dtype=np.float32)
    estimator = tf.estimator.Estimator(
        model_fn, str(model_dir), params={'hidden_units': hidden_units}
    )
    predictions = estimator.predict(
        lambda: tf.data.Dataset.from_tensors(np.stack([numbers, numbers], 1))
    )
    predictions = np.array([prediction['predictions'][0] for prediction in predictions])
    assert np.all(np.abs(predictions - 2 * numbers) <= 1e-2 * np.maximum(numbers, 1))


def test_model_fn_with_the_posts_own_call(trained, tmp_path):
    estimator = tf.estimator.Estimator(model_fn, str(tmp_path), params={})
    estimator.train(train.train_input_fn, steps=2)
    assert estimator.latest_checkpoint() == f'{tmp_path}/model.ckpt-2'
    estimator = tf.estimator.Estimator(
        model_fn, shutil.copytree(trained, tmp_path / 'copy'), params={}
    )
    metrics = estimator.evaluate(lambda: train.train_input_fn().take(5))
    assert metrics['mean_absolute_error'] < 1e-2 and metrics['root_mean_squared_error'] < 1e-2
    assert metrics['global_step'] == 1000
    predictions = estimator.predict(
        lambda: tf.data.Dataset.from_tensors({'feature': [[3.0, 3.0], [50.0, 50.0]]})
    )
    np.testing.assert_allclose([prediction[0] for prediction in predictions], [6, 100], rtol=1e-2)


def test_model_fn_in_a_mode_that_is_none():
    with tf.Graph().as_default(), pytest.raises(NotImplementedError, match='unknown mode nonsense'):
        model_fn(tf.zeros([1, 2]), tf.zeros([1, 1]), 'nonsense', {})


def test_learning_rate_comes_through_params(tmp_path):
    def start_of(learning_rate):
        model_dir = tmp_path / str(learning_rate)
        estimator = tf.estimator.Estimator(
            model_fn,
            str(model_dir),
            tf.estimator.RunConfig(tf_random_seed=1),
            {'learning_rate': learning_rate},
        )
        estimator.train(train.train_input_fn, steps=1)
        return weights(model_dir)[1]

    assert [start_of(learning_rate).item() for learning_rate in (0.25, 0.5)] == pytest.approx(
        [0.25, 0.5], rel=1e-4
    )


def batches_of(dataset):
    with tf.Graph().as_default(), tf.Session() as session:
        batch, batches = tf.data.make_one_shot_iterator(dataset()).get_next(), []
        with contextlib.suppress(tf.errors.OutOfRangeError):
            while True:
                batches.append(session.run(batch))
    return batches


def test_examples_are_those_of_the_posts(monkeypatch):
    assert list(train.train_generator_fn()) == [([n, n], [2 * n]) for n in range(100)]
    batches = batches_of(lambda: train.train_input_fn().take(5))
    assert {(x.shape, y.shape) for x, y in batches} == {((20, 2), (20, 1))}
    examples = [(*x, *y) for xs, ys in batches for x, y in zip(xs, ys)]
    assert examples != sorted(examples) == [(n, n, 2 * n) for n in range(100)]
    monkeypatch.setattr(
        train, 'train_generator_fn', lambda: [([1, 1], [2])]
    )  # one batch instead of five
    assert len(batches_of(train.train_input_fn)) == 200
    assert all(
        list(module.my_service(10)) == list(range(100, 110))
        for module in (predict, fast_predict, serve)
    )


# Training on, and again.


def test_train_again_adds_no_step_and_goes_on_when_asked(trained, tmp_path, capsys, caplog):
    model_dir = shutil.copytree(trained, tmp_path / 'model')
    before = snapshot(model_dir)
    train.main(['--model-dir', str(model_dir)])
    assert capsys.readouterr().out == f'Trained on CPU: {model_dir}/model.ckpt-1000\n'
    assert 'Skipping training since max_steps has already saved.' in caplog.text
    assert snapshot(model_dir) == before
    train.main(['--model-dir', str(model_dir), '--steps', '1100'])
    assert capsys.readouterr().out == f'Trained on CPU: {model_dir}/model.ckpt-1100\n'
    assert tf.train.load_variable(str(model_dir), 'global_step') == 1100
    assert_learned(model_dir)


def test_train_on_a_gpu_that_is_not_there(tmp_path, ends):
    if tf.config.experimental.list_physical_devices('GPU'):
        pytest.skip('this machine has a GPU')
    assert '--device gpu: TensorFlow sees no GPU' in ends(
        train, '--model-dir', tmp_path / 'model', '--device', 'gpu'
    )
    assert not (tmp_path / 'model').exists()


# What each script prints, and which checkpoint or export it says it used.


def test_export_writes_one_signature(trained, exported, script, tmp_path):
    process = script('export.py', '--model-dir', trained)
    [timestamp] = os.listdir(tmp_path / 'saved_model')
    assert re.fullmatch(r'\d{10}', timestamp)
    assert process.stdout == f'Exported {trained}/model.ckpt-1000 to saved_model/{timestamp}\n'
    assert not re.search('WARNING|EXCLUDED|regression', process.stderr), process.stderr
    shown = script(
        SAVED_MODEL_CLI, 'show', '--dir', tmp_path / 'saved_model' / timestamp, '--all'
    ).stdout
    assert re.findall(r"signature_def\['(\w+)'\]", shown) == ['serving_default']
    assert "inputs['number'] tensor_info:\n        dtype: DT_FLOAT\n        shape: (-1, 1)" in shown
    assert (
        "outputs['output'] tensor_info:\n        dtype: DT_FLOAT\n        shape: (-1, 1)" in shown
    )
    assert 'Method name is: tensorflow/serving/predict' in shown


def test_predict_restores_the_checkpoint_for_each_example(trained, script):
    process = script('predict.py', '--model-dir', trained, '--examples', 3)
    assert re.fullmatch(average('predict.py', 3), process.stdout), process.stderr
    assert process.stderr.count(f'Restoring parameters from {trained}/model.ckpt-1000') == 3


def test_fast_predict_restores_it_once(trained, script):
    process = script('fast_predict.py', '--model-dir', trained, '--examples', 50, '--batch', 5)
    assert re.fullmatch(
        average('fast_predict.py', 10)
        + average("fast_predict.py with the library's FastPredict", 10),
        process.stdout,
    ), process.stderr
    restored = re.findall(
        'Restoring parameters from (.*)', process.stderr
    )  # one for each of the two FastPredicts
    assert restored == [f'{trained}/model.ckpt-1000'] * 2
    assert 'WARNING' not in process.stderr


def test_serve(exported, script):
    process = script('serve.py', '--export-dir', exported, '--examples', 100)
    assert re.fullmatch(
        f'Serving {exports.latest(exported)}\n' + average('serve.py', 100), process.stdout
    )
    assert process.stderr == ''


def test_serve_needs_no_estimator(exported):
    code = (
        f'import sys, serve; serve.main(["--export-dir", {exported!r}, "--examples", "1"]); '
        'print(sorted({"model", "estimator_inference.tf1", "tensorflow_estimator"} & set(sys.modules)))'
    )
    process = subprocess.run(
        [sys.executable, '-c', code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != 'TF_USE_LEGACY_KERAS'},
    )
    assert process.stdout.endswith('\n[]\n'), process.stderr


def test_serve_takes_the_newest_export(exported, tmp_path, capsys):
    [timestamp] = os.listdir(exported)
    for name in ('temp-9999999999', '5', 'notes'):
        shutil.copytree(os.path.join(exported, timestamp), tmp_path / name)
    (tmp_path / '9999999999').write_text('a stray file')
    serve.main(['--export-dir', str(tmp_path), '--examples', '1'])
    assert exports.latest(str(tmp_path)) == str(tmp_path / '5')
    printed = capsys.readouterr().out
    assert printed.startswith(f'Serving {tmp_path}/5\n') and 'Average time in serve.py' in printed


def test_pretrained_serves_and_stays_as_it_is(capsys, caplog):
    before = snapshot(os.path.join(ROOT, 'pretrained'))
    assert sum(map(len, before.values())) < 50_000
    predict.main(['--model-dir', f'{ROOT}/pretrained/model', '--examples', '3'])
    fast_predict.main(['--model-dir', f'{ROOT}/pretrained/model', '--examples', '30'])
    serve.main(['--export-dir', f'{ROOT}/pretrained/saved_model', '--examples', '30'])
    assert re.fullmatch(
        average('predict.py', 3)
        + average('fast_predict.py', 30)
        + average("fast_predict.py with the library's FastPredict", 30)
        + 'Serving .*\n'
        + average('serve.py', 30),
        capsys.readouterr().out,
    )
    assert snapshot(os.path.join(ROOT, 'pretrained')) == before
    assert_learned(os.path.join(ROOT, 'pretrained/model'))


def test_what_tensorflow_1_15_wrote_answers_in_each_script(tmp_path, capsys):
    written = os.path.join(ROOT, 'tests/data/tensorflow_1_15')
    before = snapshot(written)
    predict.main(['--model-dir', f'{written}/model', '--examples', '3'])
    fast_predict.main(['--model-dir', f'{written}/model', '--examples', '30'])
    export.main(['--model-dir', f'{written}/model', '--export-dir', str(tmp_path)])
    for export_dir in (f'{written}/saved_model', tmp_path):
        serve.main(['--export-dir', str(export_dir), '--examples', '30'])
    assert capsys.readouterr().out.count('Average time in') == 5
    assert_learned(f'{written}/model')
    assert snapshot(written) == before


# The generator-based FastPredict.


@pytest.mark.parametrize('batch', [1, 7])
def test_generator_based_fast_predict_answers_each_question(trained, batch):
    estimator = tf.estimator.Estimator(model_fn, trained, params={})
    opened, numbers, got = fast_predict.FastPredict(estimator), iter(range(300)), []
    while asked := list(itertools.islice(numbers, batch)):
        got += opened.predict([[number, number] for number in asked])
    opened.predictions.close()
    np.testing.assert_allclose(np.ravel(got), 2.0 * np.arange(300), rtol=1e-2, atol=1e-2)
    # TensorFlow is usable after that, in this thread.
    assert tf.get_default_graph() is not None and not tf.get_default_graph().finalized
    assert tf2.add(1, 2).numpy() == 3
    [prediction] = estimator.predict(lambda: predict.example_input_fn(100))
    assert prediction == pytest.approx(200, rel=1e-2)


# The hidden layer of post B.


def test_hidden_layer_is_predicted_in_each_way(hidden, tmp_path, capsys):
    assert_hidden_learned(hidden, 4)
    estimator = tf.estimator.Estimator(model_fn, hidden, params={'hidden_units': 4})
    predicted = [
        next(estimator.predict(lambda: predict.example_input_fn(number))) for number in (3, 50)
    ]
    opened = fast_predict.FastPredict(estimator)
    fast = opened.predict([[3, 3], [50, 50]])
    opened.predictions.close()
    export.main(['--model-dir', hidden, '--export-dir', str(tmp_path)])
    with predictor.from_saved_model(exports.latest(str(tmp_path))) as predict_fn:
        served = predict_fn({'number': [[3], [50]]})
    assert served['hidden'].shape == (2, 4) and served['predictions'].shape == (2, 1)
    np.testing.assert_allclose(served['predictions'][:, 0], [6, 100], rtol=1e-2)
    for row in range(2):
        for key in ('hidden', 'predictions'):
            np.testing.assert_allclose(predicted[row][key], served[key][row], rtol=1e-5)
            np.testing.assert_allclose(fast[row][key], served[key][row], rtol=1e-5)
    kernel, bias = (estimator.get_variable_value(f'hidden/{name}') for name in ('kernel', 'bias'))
    np.testing.assert_allclose(served['hidden'][0], 3 * kernel.sum(0) + bias, rtol=1e-5)
    capsys.readouterr()
    for module, flag, path in (
        (predict, '--model-dir', hidden),
        (fast_predict, '--model-dir', hidden),
        (beyond_serve, '--export-dir', tmp_path),
    ):
        module.main([flag, str(path), '--examples', '2'])
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('f(100)')]
        assert lines and all(
            re.fullmatch(r'f\(100\) = hidden( -?[\d.]+){4}, predictions (\d+\.\d\d)', line)
            for line in lines
        )
        assert [float(line.split()[-1]) for line in lines] == pytest.approx(
            [200] * len(lines), rel=1e-2
        )


def test_hidden_units_are_known_from_the_checkpoint(hidden, tmp_path, ends):
    model_dir = shutil.copytree(hidden, tmp_path / 'model')
    train.main(['--model-dir', str(model_dir), '--steps', '501'])
    assert tf.train.load_variable(str(model_dir), 'global_step') == 501
    assert tf.train.load_variable(str(model_dir), 'hidden/kernel').shape == (2, 4)
    before = snapshot(model_dir)
    assert ends(train, '--model-dir', model_dir, '--hidden-units', '5', '--steps', '1000') == (
        f'the checkpoint {model_dir}/model.ckpt-501 has 4 hidden units, and --hidden-units asks for 5: '
        'choose another --model-dir'
    )
    assert snapshot(model_dir) == before


def test_hidden_layer_is_asked_for_where_there_is_none(trained, tmp_path, ends):
    model_dir = shutil.copytree(trained, tmp_path / 'model')
    before = snapshot(model_dir)
    assert (
        f'{model_dir}/model.ckpt-1000 has no hidden units, and --hidden-units asks for 4'
        in ends(train, '--model-dir', model_dir, '--hidden-units', '4', '--steps', '2000')
    )
    assert snapshot(model_dir) == before


def test_another_model_fn(monkeypatch, tmp_path, capsys, ends, trained):
    def another(features, labels, mode, params):
        features = features['feature'] if isinstance(features, dict) else features
        a = tf.get_variable('a', [], initializer=tf.zeros_initializer())
        output = a * tf.reduce_sum(features, 1, keepdims=True)
        if mode == 'infer':
            return tf.estimator.EstimatorSpec(
                mode, predictions={'predictions': output, 'a': tf.tile([a], tf.shape(features)[:1])}
            )
        loss = tf.nn.l2_loss(output - labels)
        train_op = tf.train.AdamOptimizer(0.5).minimize(loss, tf.train.get_global_step())
        return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)

    for module in (train, export, predict, fast_predict):
        monkeypatch.setattr(module, 'model_fn', another)
    model_dir, export_dir = str(tmp_path / 'model'), str(tmp_path / 'saved_model')
    train.main(['--model-dir', model_dir, '--steps', '250'])
    export.main(['--model-dir', model_dir, '--export-dir', export_dir])
    for module in (predict, fast_predict):
        module.main(['--model-dir', model_dir, '--examples', '5'])
    beyond_serve.main(['--export-dir', export_dir, '--examples', '5'])
    printed = capsys.readouterr().out
    assert printed.count('Average time in') == 4 and printed.count('f(104)') == 0
    assert re.search(
        f"^{export_dir}/\\d+ gives no 'output': to see what it takes and gives, run .*saved_model_cli ",
        ends(serve, '--export-dir', export_dir),
    )
    assert printed.count('f(100) = a 1.00, predictions 200.00\n') == 4
    assert tf.train.load_variable(model_dir, 'a') == pytest.approx(1, rel=1e-2)
    other = shutil.copytree(trained, tmp_path / 'other')
    for module in (train, export, predict, fast_predict):  # a checkpoint of the other network
        flags = (
            ['--steps', '2000']
            if module is train
            else ['--export-dir', tmp_path / 'none']
            if module is export
            else []
        )
        line = ends(module, '--model-dir', other, *flags)
        assert line.startswith(
            f'{other} has a checkpoint of another network than model_fn builds (Key a not found'
        )


# How they end where they can't go on.


@pytest.fixture(scope='module')
def untrained(tmp_path_factory):
    """The directories of a model that was trained for one step only, and its export."""
    directory = tmp_path_factory.mktemp('untrained')
    flags = ['--model-dir', str(directory / 'model')]
    train.main([*flags, '--steps', '1'])
    export.main([*flags, '--export-dir', str(directory / 'saved_model')])
    return flags, ['--export-dir', str(directory / 'saved_model')]


@pytest.mark.parametrize('name', ['predict.py', 'fast_predict.py', 'serve.py'])
def test_wrong_answers_end_a_timed_script(name, untrained, script):
    process = script(name, *untrained[name == 'serve.py'], '--examples', 5)
    assert process.returncode == 1 and 'Average time' not in process.stdout
    assert re.fullmatch(
        r'f\(100\) = \S+, expected 200: the model has not learned 2x',
        process.stderr.splitlines()[-1],
    )


@pytest.mark.parametrize('script_module', [export, predict, fast_predict])
def test_no_checkpoint(script_module, tmp_path, ends):
    for model_dir in (tmp_path / 'missing', tmp_path):
        assert (
            ends(script_module, '--model-dir', model_dir)
            == f'no checkpoint in {model_dir}: run {command("train.py", "--model-dir", str(model_dir))}'
        )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('script_module', [export, predict, fast_predict, serve])
def test_no_flags_that_are_defaults_in_a_hint(script_module, tmp_path, ends, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ends(script_module)
    assert line == (
        f'no export in saved_model: run {command("export.py")}'
        if script_module is serve
        else f'no checkpoint in model: run {command("train.py")}'
    )
    assert '--' not in line


@pytest.mark.parametrize('damage', ['remove', 'empty', 'truncate', 'flip'])
@pytest.mark.parametrize('file', ['model.ckpt-1000.index', 'model.ckpt-1000.data-00000-of-00001'])
@pytest.mark.parametrize('script_module', [train, export, predict, fast_predict])
def test_damaged_checkpoint(script_module, file, damage, trained, tmp_path, ends):
    model_dir = shutil.copytree(trained, tmp_path / 'model')
    spoil(model_dir / file, damage)
    before = snapshot(tmp_path)
    args = ['--model-dir', model_dir] + (['--steps', '2000'] if script_module is train else [])
    line = ends(script_module, *args)
    assert 'damaged' in line
    assert (
        f': move {model_dir} away and run {command("train.py", "--model-dir", str(model_dir))}'
        in line
    )
    assert snapshot(tmp_path) == before


def test_no_export(tmp_path, ends):
    (tmp_path / 'temp-123').mkdir()
    for export_dir, words in (
        (tmp_path / 'missing', 'no export in'),
        (tmp_path, 'no export in'),
    ):
        assert (
            ends(serve, '--export-dir', export_dir)
            == f'{words} {export_dir}: run {command("export.py", "--export-dir", str(export_dir))}'
        )


@pytest.mark.parametrize('damage', ['remove', 'empty', 'truncate', 'flip'])
@pytest.mark.parametrize(
    'file',
    ['saved_model.pb', 'variables/variables.index', 'variables/variables.data-00000-of-00001'],
)
def test_damaged_export(file, damage, exported, tmp_path, ends):
    export_dir = shutil.copytree(exported, tmp_path / 'saved_model')
    spoil(next(export_dir.iterdir()) / file, damage)
    assert f'run {command("export.py", "--export-dir", str(export_dir))}' in ends(
        serve, '--export-dir', export_dir
    )


def spoil(path, damage):
    content = path.read_bytes()
    if damage == 'remove':
        path.unlink()
    elif damage == 'flip':
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
    else:
        path.write_bytes(content[: len(content) // 2] if damage == 'truncate' else b'')


def test_an_export_of_another_model_is_refused(tmp_path, ends):
    with tf.Graph().as_default(), tf.Session() as session:
        x, y = tf.placeholder(tf.float32, [None, 1]), tf.placeholder(tf.float32, [None, 1])
        for name, inputs, outputs in (
            ('1', {'x': x, 'y': y}, {'output': x + y}),
            ('2', {'number': x}, {'nonsense': x * 2}),
        ):
            tf.saved_model.simple_save(session, str(tmp_path / name / '1'), inputs, outputs)
    assert "unknown inputs ['number']: expected ['x', 'y']" in ends(
        serve, '--export-dir', tmp_path / '1'
    )
    assert "gives no 'output'" in ends(serve, '--export-dir', tmp_path / '2')


@pytest.mark.parametrize('script_module', [train, export, predict, fast_predict, serve])
def test_bad_flags(script_module, tmp_path, ends):
    (tmp_path / 'file').write_text('')
    directory = '--export-dir' if script_module is serve else '--model-dir'
    assert f'argument {directory}: expected a directory, and ' in ends(
        script_module, directory, tmp_path / 'file'
    )
    assert f'{tmp_path}/file' in ends(script_module, directory, tmp_path / 'file' / 'below')
    assert 'unrecognized arguments: --nonsense' in ends(script_module, '--nonsense')
    assert "invalid choice: 'tpu'" in ends(script_module, '--device', 'tpu')
    if script_module is not export:
        count = '--steps' if script_module is train else '--examples'
        for value in ('0', '-1', '1.5', 'many', ''):
            assert f'argument {count}: expected a whole number from 1 on' in ends(
                script_module, f'{count}={value}'
            )
    assert os.listdir(tmp_path) == ['file']


@pytest.mark.skipif(not shutil.which('make'), reason='there is no make')
@pytest.mark.parametrize('python', ['nonsense', 'false'])
def test_make_says_which_pythons_will_do(python, tmp_path):
    process = subprocess.run(
        ['make', 'run', f'PYTHON={python}', f'VENV={tmp_path}/venv'],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert process.returncode != 0 and os.listdir(tmp_path) == []
    assert process.stderr.splitlines()[0] == (
        f'TensorFlow 2.21 needs Python 3.10, 3.11, 3.12 or 3.13, which {python} is not: '
        'install one, or name one: make PYTHON=/path/to/python3.12'
    )


# How times and answers are told.


def test_report(capsys):
    support.report('x.py', {1: np.float32([2]), 2: np.float32([4.001])}, [0.003, 0.00002, 0.00004])
    support.report(
        'y.py', {1: {'predictions': np.float32([2]), 'hidden': np.float32([-1.234, 3])}}, [2.0]
    )
    assert capsys.readouterr().out == (
        'f(1) = 2.00\nf(2) = 4.00\nAverage time in x.py: 0.001s\n(3 calls: median 40 us, the first 3.0 ms)\n'
        'f(1) = hidden -1.23 3.00, predictions 2.00\n'
        'Average time in y.py: 2s\n(1 calls: median 2.0 s, the first 2.0 s)\n'
    )
    with pytest.raises(timing.WrongAnswer, match=r'f\(2\) = 5.0, expected 4'):
        support.report('x.py', {1: np.float32([2]), 2: np.float32([5])}, [1.0, 2.0])


def test_check_catches_wrong_answers():
    timing.check([0, 100], [0.0005, 200.05])
    for predictions in (
        [0.0, 203.0],
        [0.1, 200.0],
        [float('nan'), 200.0],
        [0.0],
        [0.0, 200.0, 1.0],
    ):
        with pytest.raises(timing.WrongAnswer):
            timing.check([0, 100], predictions)


def test_seconds():
    assert [
        timing.seconds(value)
        for value in (2.5, 0.0651, 0.00999, 6.04e-6, 14.4e-6, 4e-7, 0.9996, 4.3e-8)
    ] == ['2.5 s', '65 ms', '10 ms', '6.0 us', '14 us', '0.4 us', '1.0 s', '43 ns']
