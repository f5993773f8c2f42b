"""The iris scripts: what they print, that they agree, and how they end where they can't go on."""
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import predictor
from conftest import ROOT
from fast_predict import FastPredict
from iris import classifier, fast, iris_data, serve, session, train
from test_scripts import snapshot, spoil
from tf1 import tf

HEAD = 'SepalLength  SepalWidth  PetalLength  PetalWidth  ClassID  Probability'


@pytest.fixture(scope='session')
def iris_trained(tmp_path_factory):
    """A directory with what iris/train.py wrote, model/ and saved_model/. Tests leave it as it is."""
    directory = tmp_path_factory.mktemp('iris')
    train.main(['--model-dir', str(directory / 'model'), '--export-dir', str(directory / 'saved_model')])
    return directory


@pytest.fixture(scope='session')
def scores(iris_trained):
    """The probabilities of the three flowers as the Estimator itself predicts them: [3, 3]."""
    estimator = classifier.load_estimator(str(iris_trained / 'model'))
    return np.array([prediction['probabilities']
                     for prediction in estimator.predict(lambda: train.eval_input_fn(iris_data.FLOWERS))])


@pytest.fixture(scope='session')
def printed(scores):
    """The table that each way to predict prints: for the three flowers their classes 0, 1, 2, and the probabilities."""
    return (f'{HEAD}\n'
            f'        5.1         3.3          1.7         0.5        0     {scores[0, 0]:.6f}\n'
            f'        5.9         3.0          4.2         1.5        1     {scores[1, 1]:.6f}\n'
            f'        6.9         3.1          5.4         2.1        2     {scores[2, 2]:.6f}\n')


def iris(name, *args):
    """Runs an iris script as a person does."""
    return subprocess.run([sys.executable, '-m', f'iris.{name}', *map(str, args)], cwd=ROOT, text=True,
                          capture_output=True, timeout=120)


def kernel(model_dir):
    return tf.train.load_variable(str(model_dir), 'dnn/hiddenlayer_0/kernel')


def check_printed(lines):
    """Asserts what a training prints, and returns the path of the export."""
    assert float(re.fullmatch(r'Test set accuracy: (\d\.\d{3})', lines[0])[1]) >= 0.93
    for line, name in zip(lines[1:4], ('Setosa', 'Versicolor', 'Virginica')):
        assert float(re.fullmatch(rf'Prediction is "{name}" \(([\d.]+)%\), expected "{name}"', line)[1]) > 80
    assert len(lines) == 5
    return re.fullmatch(r'Exported to (.+)', lines[4])[1]


def test_data():
    features, labels = iris_data.load('iris_training.csv')
    assert [features[key][0] for key in iris_data.FEATURES] == [6.4, 2.8, 5.6, 2.2] and labels[0] == 2
    assert [len(column) for column in (*features.values(), labels)] == [120] * 5
    features, labels = iris_data.load('iris_test.csv')
    assert iris_data.rows(features)[1] == {'SepalLength': 6.9, 'SepalWidth': 3.1, 'PetalLength': 5.4, 'PetalWidth': 2.1}
    assert len(labels) == 30 and set(labels) == {0, 1, 2}


def test_table_takes_the_likeliest_class_and_aligns():
    lines = iris_data.table([[b'0', b'1', b'2']] * 2 + [['2', '0', '1']],
                            [[.2, .7, .1], [1., 0., 0.], [.25, .25, .5]]).split('\n')
    assert lines == [HEAD,
                     '        5.1         3.3          1.7         0.5        1     0.700000',
                     '        5.9         3.0          4.2         1.5        0     1.000000',
                     '        6.9         3.1          5.4         2.1        1     0.500000']


def test_train_prints_what_the_text_prints(tmp_path):
    process = iris('train', '--model-dir', tmp_path / 'model', '--export-dir', tmp_path / 'saved_model')
    export_dir = check_printed(process.stdout.splitlines())
    assert os.path.dirname(export_dir) == str(tmp_path / 'saved_model')
    assert predictor.latest_export(str(tmp_path / 'saved_model')) == export_dir
    assert tf.train.load_variable(str(tmp_path / 'model'), 'global_step') == 1000
    assert 'Saving dict for global step 1000: accuracy' in process.stderr and 'Traceback' not in process.stderr


def test_train_twice_gives_the_same_weights_and_another_seed_gives_others(iris_trained, tmp_path):
    for seed in (1, 2):
        train.main(['--model-dir', str(tmp_path / f'{seed}'), '--export-dir', str(tmp_path / 'saved_model'),
                    '--seed', str(seed), '--steps', '1000'])
    np.testing.assert_array_equal(kernel(tmp_path / '1'), kernel(iris_trained / 'model'))
    assert np.all(kernel(tmp_path / '2') != kernel(tmp_path / '1'))


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(10))
def test_train_is_accurate_with_each_seed(seed, tmp_path, capsys):
    train.main(['--model-dir', str(tmp_path / 'model'), '--export-dir', str(tmp_path / 'saved_model'),
                '--seed', str(seed)])
    check_printed(capsys.readouterr().out.splitlines())


def test_train_goes_on_and_exports_again(tmp_path, capsys):
    args = ['--model-dir', str(tmp_path / 'model'), '--export-dir', str(tmp_path / 'saved_model')]
    train.main([*args, '--steps', '10'])
    train.main(args)
    assert tf.train.load_variable(str(tmp_path / 'model'), 'global_step') == 1000
    trained = kernel(tmp_path / 'model')
    capsys.readouterr()
    train.main(args)  # trained already: after being killed before it exported, for instance
    assert check_printed(capsys.readouterr().out.splitlines()) == predictor.latest_export(str(tmp_path / 'saved_model'))
    np.testing.assert_array_equal(kernel(tmp_path / 'model'), trained)


@pytest.mark.parametrize('name, flag, made', [('serve', '--export-dir', 'saved_model'),
                                              ('session', '--export-dir', 'saved_model'),
                                              ('fast', '--model-dir', 'model')])
def test_each_way_prints_the_same_table(name, flag, made, iris_trained, printed):
    process = iris(name, flag, iris_trained / made)
    assert process.stdout == printed, process.stderr
    assert 'Traceback' not in process.stderr and (name == 'fast' or process.stderr == '')


def test_probabilities_are_equal(iris_trained, scores):
    assert scores.argmax(1).tolist() == [0, 1, 2]
    export_dir = predictor.latest_export(str(iris_trained / 'saved_model'))
    examples = iris_data.serialized(iris_data.FLOWERS)
    with predictor.from_saved_model(export_dir) as predict_fn:
        np.testing.assert_allclose(predict_fn({'inputs': examples})['scores'], scores, atol=1e-6, rtol=0)
    classes, by_session = session.predict(export_dir, examples)
    np.testing.assert_allclose(by_session, scores, atol=1e-6, rtol=0)
    assert classes.tolist() == [[b'0', b'1', b'2']] * 3
    spec = {key: tf.TensorSpec([None], tf.float32) for key in iris_data.FEATURES}
    with FastPredict(classifier.load_estimator(str(iris_trained / 'model')), spec) as fast_predict:
        by_fast = [prediction['probabilities'] for prediction in fast_predict.predict(iris_data.FLOWERS)]
    np.testing.assert_allclose(by_fast, scores, atol=1e-6, rtol=0)


def saved_model_cli(*args):
    return subprocess.run([os.path.join(os.path.dirname(sys.executable), 'saved_model_cli'), *args], text=True,
                          capture_output=True, timeout=120).stdout


def test_saved_model_cli(iris_trained, scores):
    export_dir = predictor.latest_export(str(iris_trained / 'saved_model'))
    signature = ('--dir', export_dir, '--tag_set', 'serve', '--signature_def', 'serving_default')
    shown = saved_model_cli('show', *signature)
    assert "inputs['inputs'] tensor_info:\n      dtype: DT_STRING\n      shape: (-1)" in shown
    assert "outputs['classes'] tensor_info:\n      dtype: DT_STRING\n      shape: (-1, 3)" in shown
    assert "outputs['scores'] tensor_info:\n      dtype: DT_FLOAT\n      shape: (-1, 3)" in shown
    assert 'Method name is: tensorflow/serving/classify' in shown
    run = saved_model_cli('run', *signature, '--input_examples',
                          'inputs=[{"SepalLength":[5.1],"SepalWidth":[3.3],"PetalLength":[1.7],"PetalWidth":[0.5]}]')
    answer = re.search(r"output key classes:\n\[\[b'0' b'1' b'2'\]\]\nResult for output key scores:\n\[\[(.+)\]\]", run)
    np.testing.assert_allclose([float(score) for score in answer[1].split()], scores[0], atol=1e-6, rtol=0)


def test_nothing_there(tmp_path, ends):
    for directory in (tmp_path / 'missing', tmp_path):
        assert ends(fast, '--model-dir', directory) == \
            f'no checkpoint in {directory}: run python -m iris.train --model-dir {directory}'
        for script_module in (serve, session):
            line = ends(script_module, '--export-dir', directory)
            assert re.fullmatch(rf'no .+ {directory}: run python -m iris.train --export-dir {directory}', line)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('damage', ['empty', 'truncate'])
@pytest.mark.parametrize('file', ['model.ckpt-1000.index', 'model.ckpt-1000.data-00000-of-00001'])
@pytest.mark.parametrize('script_module', [train, fast])
def test_damaged_checkpoint(script_module, file, damage, iris_trained, tmp_path, ends):
    model_dir = shutil.copytree(iris_trained / 'model', tmp_path / 'model')
    spoil(model_dir / file, damage)
    before = snapshot(tmp_path)
    line = ends(script_module, '--model-dir', model_dir)
    assert 'damaged' in line and 'run python -m iris.train --model-dir ' in line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize('file', ['saved_model.pb', 'variables/variables.index',
                                  'variables/variables.data-00000-of-00001'])
@pytest.mark.parametrize('script_module', [serve, session])
def test_damaged_export(script_module, file, iris_trained, tmp_path, ends):
    export_dir = shutil.copytree(iris_trained / 'saved_model', tmp_path / 'saved_model')
    spoil(next(export_dir.iterdir()) / file, 'truncate')
    assert f'run python -m iris.train --export-dir {export_dir}' in ends(script_module, '--export-dir', export_dir)


def test_another_model(trained, exported, ends):
    for script_module in (train, fast):
        assert ends(script_module, '--model-dir', trained).endswith(
            'model.ckpt-1000 is of another network: choose another --model-dir')
    assert "unknown inputs ['inputs']: expected ['number']" in ends(serve, '--export-dir', exported)
    assert 'has no classifier' in ends(session, '--export-dir', exported)


def test_bad_flags(tmp_path, ends):
    assert 'unrecognized arguments: --nonsense' in ends(train, '--nonsense')
    assert 'argument --steps: expected a whole number from 1 on' in ends(train, '--steps', '0')
    assert 'argument --export-dir: expected a directory, and ' in ends(serve, '--export-dir', __file__)


@pytest.mark.parametrize('command', ['from iris import remote as script; script.main([])',
                                     'import serve; serve.main(["--remote", "127.0.0.1:1"])'])
def test_serving_api_is_missing(command):
    process = subprocess.run([sys.executable, '-c', f'import sys; sys.modules["tensorflow_serving"] = None; {command}'],
                             cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.stderr == 'tensorflow-serving-api is missing: pip install -r requirements-serving.txt\n'
    assert process.returncode == 1 and process.stdout == ''
