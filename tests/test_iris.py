"""The iris scripts: what they print, that they agree, and how they end where they can't go on."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from processes import ROOT

from estimator_inference import FastPredict, exports, predictor, tf
from iris import classifier, fast, iris_data, serve, session, train

HEAD = 'SepalLength  SepalWidth  PetalLength  PetalWidth  ClassID  Probability'
COMMAND = r'run .*python\S* -m iris\.train'


@pytest.fixture(scope='session')
def scores(iris_trained):
    """The probabilities of the three flowers as the Estimator itself predicts them: [3, 3]."""
    estimator = classifier.build_classifier(f'{iris_trained}/model')
    return np.array(
        [
            prediction['probabilities']
            for prediction in estimator.predict(lambda: train.eval_input_fn(iris_data.FLOWERS))
        ]
    )


@pytest.fixture(scope='session')
def printed(scores):
    """The table that each way to predict prints: for the three flowers their classes 0, 1, 2, and the probabilities."""
    return (
        f'{HEAD}\n'
        f'        5.1         3.3          1.7         0.5        0     {scores[0, 0]:.6f}\n'
        f'        5.9         3.0          4.2         1.5        1     {scores[1, 1]:.6f}\n'
        f'        6.9         3.1          5.4         2.1        2     {scores[2, 2]:.6f}\n'
    )


def kernel(model_dir):
    return tf.train.load_variable(str(model_dir), 'dnn/hiddenlayer_0/kernel')


def flags(directory):
    return ['--model-dir', f'{directory}/model', '--export-dir', f'{directory}/saved_model']


def contents(directory):
    return {
        path: path.is_file() and path.read_bytes() for path in pathlib.Path(directory).rglob('*')
    }


def spoil(path, damage='truncate'):
    path.write_bytes(b'' if damage == 'empty' else path.read_bytes()[:-10])


def check_printed(lines):
    """Asserts what a training prints, and returns the path of the export."""
    assert float(re.fullmatch(r'Test set accuracy: (\d\.\d{3})', lines[0])[1]) >= 0.93
    for line, name in zip(lines[1:4], ('Setosa', 'Versicolor', 'Virginica')):
        assert (
            float(
                re.fullmatch(rf'Prediction is "{name}" \(([\d.]+)%\), expected "{name}"', line)[1]
            )
            > 80
        )
    assert len(lines) == 5
    return re.fullmatch(r'Exported to (.+)', lines[4])[1]


def test_data():
    features, labels = iris_data.load('iris_training.csv')
    assert [features[key][0] for key in iris_data.FEATURES] == [6.4, 2.8, 5.6, 2.2] and labels[
        0
    ] == 2
    assert [len(column) for column in (*features.values(), labels)] == [120] * 5
    features, labels = iris_data.load('iris_test.csv')
    assert iris_data.rows(features)[1] == {
        'SepalLength': 6.9,
        'SepalWidth': 3.1,
        'PetalLength': 5.4,
        'PetalWidth': 2.1,
    }
    assert len(labels) == 30 and set(labels) == {0, 1, 2}


def test_table_takes_the_likeliest_class_and_aligns():
    lines = iris_data.table(
        [[b'0', b'1', b'2']] * 2 + [['2', '0', '1']],
        [[0.2, 0.7, 0.1], [1.0, 0.0, 0.0], [0.25, 0.25, 0.5]],
    ).split('\n')
    assert lines == [
        HEAD,
        '        5.1         3.3          1.7         0.5        1     0.700000',
        '        5.9         3.0          4.2         1.5        0     1.000000',
        '        6.9         3.1          5.4         2.1        1     0.500000',
    ]


def test_train_prints_what_the_text_prints(iris_trained):
    stdout, stderr = (pathlib.Path(iris_trained, name).read_text() for name in ('stdout', 'stderr'))
    export_dir = check_printed(stdout.splitlines())
    assert os.path.basename(os.path.dirname(export_dir)) == 'saved_model'
    assert os.path.basename(exports.latest(f'{iris_trained}/saved_model')) == os.path.basename(
        export_dir
    )
    assert tf.train.load_variable(f'{iris_trained}/model', 'global_step') == 1000
    assert 'Saving dict for global step 1000: accuracy' in stderr
    assert 'Traceback' not in stderr and 'WARNING' not in stderr


def test_train_twice_gives_the_same_weights_another_seed_gives_others_and_training_goes_on(
    tmp_path,
):
    for name, seed in (('1', 1), ('again', 1), ('2', 2)):
        train.main([*flags(tmp_path / name), '--seed', str(seed), '--steps', '10'])
    first = kernel(tmp_path / '1/model')
    np.testing.assert_array_equal(first, kernel(tmp_path / 'again/model'))
    assert np.all(kernel(tmp_path / '2/model') != first)
    train.main([*flags(tmp_path / '1'), '--steps', '20'])
    assert tf.train.load_variable(str(tmp_path / '1/model'), 'global_step') == 20
    assert np.any(kernel(tmp_path / '1/model') != first)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(10))
def test_train_is_accurate_with_each_seed(seed, tmp_path, capsys):
    train.main([*flags(tmp_path), '--seed', str(seed)])
    check_printed(capsys.readouterr().out.splitlines())


def test_a_trained_model_is_exported_again(iris_trained, tmp_path, capsys):
    shutil.copytree(f'{iris_trained}/model', tmp_path / 'model')
    train.main(flags(tmp_path))  # after it was killed before it exported, for instance
    assert check_printed(capsys.readouterr().out.splitlines()) == exports.latest(
        tmp_path / 'saved_model'
    )
    np.testing.assert_array_equal(kernel(tmp_path / 'model'), kernel(f'{iris_trained}/model'))


@pytest.mark.parametrize(
    'name, flag, made',
    [
        ('serve', '--export-dir', 'saved_model'),
        ('session', '--export-dir', 'saved_model'),
        ('fast', '--model-dir', 'model'),
    ],
)
def test_each_way_prints_the_same_table(name, flag, made, iris_trained, printed, script):
    process = script(f'-m iris.{name}', flag, f'{iris_trained}/{made}')
    assert process.stdout == printed and process.returncode == 0, process.stderr
    assert 'Traceback' not in process.stderr and (name == 'fast' or process.stderr == '')


def test_probabilities_are_equal(iris_trained, scores):
    assert scores.argmax(1).tolist() == [0, 1, 2]
    export_dir = exports.latest(f'{iris_trained}/saved_model')
    examples = iris_data.serialized(iris_data.FLOWERS)
    with predictor.from_saved_model(export_dir) as predict_fn:
        np.testing.assert_allclose(
            predict_fn({'inputs': examples})['scores'], scores, atol=1e-6, rtol=0
        )
    classes, by_session = session.predict(export_dir, examples)
    np.testing.assert_allclose(by_session, scores, atol=1e-6, rtol=0)
    assert classes.tolist() == [[b'0', b'1', b'2']] * 3
    spec = {key: tf.TensorSpec([None], tf.float32) for key in iris_data.FEATURES}
    with FastPredict(classifier.build_classifier(f'{iris_trained}/model'), spec) as fast_predict:
        by_fast = [
            prediction['probabilities'] for prediction in fast_predict.predict(iris_data.FLOWERS)
        ]
    np.testing.assert_allclose(by_fast, scores, atol=1e-6, rtol=0)


def test_saved_model_cli(iris_trained, scores, script):
    command = os.path.join(os.path.dirname(sys.executable), 'saved_model_cli')
    signature = (
        '--dir',
        exports.latest(f'{iris_trained}/saved_model'),
        '--tag_set',
        'serve',
        '--signature_def',
        'serving_default',
    )
    shown = script(command, 'show', *signature).stdout
    assert "inputs['inputs'] tensor_info:\n      dtype: DT_STRING\n      shape: (-1)" in shown
    assert "outputs['classes'] tensor_info:\n      dtype: DT_STRING\n      shape: (-1, 3)" in shown
    assert "outputs['scores'] tensor_info:\n      dtype: DT_FLOAT\n      shape: (-1, 3)" in shown
    assert 'Method name is: tensorflow/serving/classify' in shown
    run = script(
        command,
        'run',
        *signature,
        '--input_examples',
        'inputs=[{"SepalLength":[5.1],"SepalWidth":[3.3],"PetalLength":[1.7],"PetalWidth":[0.5]}]',
    ).stdout
    answer = re.search(
        r"output key classes:\n\[\[b'0' b'1' b'2'\]\]\nResult for output key scores:\n\[\[(.+)\]\]",
        run,
    )
    np.testing.assert_allclose(
        [float(score) for score in answer[1].split()], scores[0], atol=1e-6, rtol=0
    )


def test_nothing_there(tmp_path, ends):
    for directory in (tmp_path / 'missing', tmp_path):
        assert re.fullmatch(
            f'no checkpoint in {directory}: {COMMAND} --model-dir {directory}',
            ends(fast, '--model-dir', directory),
        )
        for script_module in (serve, session):
            assert re.fullmatch(
                f'no .+ {directory}: {COMMAND} --export-dir {directory}',
                ends(script_module, '--export-dir', directory),
            )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('damage', ['empty', 'truncate'])
@pytest.mark.parametrize('file', ['model.ckpt-1000.index', 'model.ckpt-1000.data-00000-of-00001'])
@pytest.mark.parametrize('script_module', [train, fast])
def test_damaged_checkpoint(script_module, file, damage, iris_trained, tmp_path, ends):
    model_dir = shutil.copytree(f'{iris_trained}/model', tmp_path / 'model')
    spoil(model_dir / file, damage)
    before = contents(tmp_path)
    line = ends(script_module, '--model-dir', model_dir)
    assert re.search(
        f'damaged.*: move {model_dir} away and {COMMAND} --model-dir {model_dir}$', line
    ), line
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    'file',
    ['saved_model.pb', 'variables/variables.index', 'variables/variables.data-00000-of-00001'],
)
@pytest.mark.parametrize('script_module', [serve, session])
def test_damaged_export(script_module, file, iris_trained, tmp_path, ends):
    export_dir = shutil.copytree(f'{iris_trained}/saved_model', tmp_path / 'saved_model')
    spoil(next(export_dir.iterdir()) / file)
    line = ends(script_module, '--export-dir', export_dir)
    assert re.search(f': {COMMAND} --export-dir {export_dir}$', line), line


def test_another_model(trained, exported, tmp_path, ends):
    model_dir = shutil.copytree(trained, tmp_path / 'model')
    before = contents(model_dir)
    for script_module, args in ((train, flags(tmp_path)), (fast, ['--model-dir', model_dir])):
        assert re.fullmatch(
            rf'{model_dir} has a checkpoint of another network than model_fn builds \(Key dnn/.+\): '
            'choose another --model-dir',
            ends(script_module, *args),
        )
    assert contents(model_dir) == before
    assert "unknown inputs ['inputs']: expected ['number']" in ends(serve, '--export-dir', exported)
    assert 'has no classifier' in ends(session, '--export-dir', exported)


def test_bad_flags(tmp_path, ends):
    assert 'unrecognized arguments: --nonsense' in ends(train, '--nonsense')
    assert 'argument --steps: expected a whole number from 1 on' in ends(train, '--steps', '0')
    assert 'argument --export-dir: expected a directory, and ' in ends(
        serve, '--export-dir', __file__
    )


@pytest.mark.parametrize('name', ['fast', 'remote', 'serve', 'session', 'train'])
def test_help_needs_no_tensorflow(name):
    process = subprocess.run(
        [sys.executable, '-X', 'importtime', '-m', f'iris.{name}', '--help'],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert process.stdout.startswith(f'usage: -m iris.{name} ') and process.returncode == 0, (
        process.stderr
    )
    assert 'MagicMock' not in process.stdout
    assert 'argparse' in process.stderr and not re.search('tensorflow|numpy', process.stderr)


def test_a_script_that_is_run_by_its_path_says_how_to_run_it(tmp_path):
    process = subprocess.run(
        [sys.executable, f'{ROOT}/iris/train.py'],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert process.returncode == 1 and process.stdout == ''
    assert process.stderr == (
        f'{ROOT}/iris/train.py needs the repository around it: run cd {ROOT} && '
        f'{sys.executable} -m iris.train\n'
    )


@pytest.mark.parametrize(
    'name, args, printed',
    [
        ('iris.remote', (), ''),
        ('beyond.serve', ('--remote', '127.0.0.1:1'), 'Serving 127.0.0.1:1\n'),
    ],
)
def test_serving_api_is_missing(name, args, printed, script, tmp_path):
    code = tmp_path / 'missing.py'
    code.write_text(f"""
import importlib, runpy, sys
sys.modules['tensorflow_serving'] = sys.modules['tensorflow_serving.apis'] = None
importlib.reload(importlib.import_module('estimator_inference.remote'))
runpy.run_module({name!r}, run_name='__main__')
""")
    process = script(str(code), *args)
    version = '.'.join(tf.__version__.split('.')[:2])
    assert process.stderr.endswith(
        'gRPC needs what the extra `serving` installs: pip install '
        f"'tensorflow-serving-api=={version}.*'\n"
    )
    assert process.stderr.count('\n') == 1 and process.returncode == 1 and process.stdout == printed
