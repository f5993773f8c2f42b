"""The ways to shape an export: hidden layer, receivers, heads, which are kept, the best, and the pretrained one."""
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import export
import fast_predict
import model
import predict
import predictor
import serve
import train
from tf1 import tf
from test_scripts import assert_learned, snapshot

import tensorflow as tf2

SAVED_MODEL_CLI = os.path.join(os.path.dirname(sys.executable), 'saved_model_cli')


def example(number):
    feature = tf.train.Feature(float_list=tf.train.FloatList(value=[number]))
    return tf.train.Example(features=tf.train.Features(feature={'number': feature})).SerializeToString()


INPUTS = {'number': ('number', [[3.], [50.]]), 'raw': ('feature', [[3., 3.], [50., 50.]]),
          'example': ('examples', [example(3.), example(50.)])}


def cli(*args):
    process = subprocess.run([SAVED_MODEL_CLI, *args], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope='module')
def hidden(tmp_path_factory):
    """The directory of a model with a hidden layer of 4 units."""
    model_dir = str(tmp_path_factory.mktemp('hidden') / 'model')
    train.main(['--model-dir', model_dir, '--hidden-units', '4'])
    return model_dir


@pytest.fixture(scope='module', params=[0, 4])
def any_model(request, trained, hidden):
    return request.param, hidden if request.param else trained


def predictions_of(model_dir):
    with fast_predict.FastPredict(model.load_estimator(model_dir), tf.TensorSpec([None, 2], tf.float32)) as opened:
        return opened.predict([[3, 3], [50, 50]])


def test_hidden_layer_is_predicted_in_each_way(hidden, tmp_path):
    estimator = model.load_estimator(hidden)
    predicted = list(estimator.predict(lambda: predict.example_input_fn([3, 50])))
    fast = predictions_of(hidden)
    export.main(['--model-dir', hidden, '--export-dir', str(tmp_path)])
    with predictor.from_saved_model(predictor.latest_export(str(tmp_path))) as predict_fn:
        served = predict_fn({'number': [[3], [50]]})
    assert served['hidden'].shape == (2, 4) and served['predictions'].shape == (2, 1)
    np.testing.assert_allclose(served['predictions'][:, 0], [6, 100], rtol=1e-3)
    for row in range(2):
        for key in ('hidden', 'predictions'):
            np.testing.assert_allclose(predicted[row][key], served[key][row], rtol=1e-5)
            np.testing.assert_allclose(fast[row][key], served[key][row], rtol=1e-5)
    weights = estimator.get_variable_value('hidden/kernel')
    np.testing.assert_allclose(served['hidden'][0], 3 * weights.sum(0) + estimator.get_variable_value('hidden/bias'),
                               rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('hidden_units', [1, 4, 64])
@pytest.mark.parametrize('seed', range(20))
def test_hidden_layer_converges_with_each_seed(seed, hidden_units, tmp_path):
    train.main(['--model-dir', str(tmp_path), '--seed', str(seed), '--hidden-units', str(hidden_units)])
    numbers = np.arange(201)
    with fast_predict.FastPredict(model.load_estimator(str(tmp_path)), tf.TensorSpec([None, 2], tf.float32)) as opened:
        predictions = [prediction['predictions'][0] for prediction in opened.predict(np.stack([numbers, numbers], 1))]
    assert np.all(np.abs(predictions - 2 * numbers) <= 1e-3 * np.maximum(numbers, 1))


def test_hidden_units_are_known_from_the_checkpoint(hidden, tmp_path, capsys, ends):
    model_dir = shutil.copytree(hidden, tmp_path / 'model')
    train.main(['--model-dir', str(model_dir), '--steps', '1001'])
    assert 'from step 1,000 to 1,001' in capsys.readouterr().out
    assert model.load_estimator(str(model_dir)).params['hidden_units'] == 4
    before = snapshot(model_dir)
    line = ends(train, '--model-dir', model_dir, '--hidden-units', '5', '--steps', '2000')
    assert "is of another network: it has {'hidden/kernel': [2, 4]" in line and "'hidden/kernel': [2, 5]" in line
    assert snapshot(model_dir) == before


def test_hidden_layer_is_asked_for_where_there_is_none(trained, ends):
    before = snapshot(trained)
    assert "'hidden/kernel': None" in ends(train, '--model-dir', trained, '--hidden-units', '4', '--steps', '2000')
    assert snapshot(trained) == before


@pytest.mark.parametrize('receiver', export.RECEIVERS)
def test_receivers(receiver, any_model, tmp_path, capsys):
    hidden_units, model_dir = any_model
    export.main(['--model-dir', model_dir, '--export-dir', str(tmp_path), '--receiver', receiver])
    export_dir = predictor.latest_export(str(tmp_path))
    key, value = INPUTS[receiver]
    output = 'predictions' if hidden_units else 'output'

    serve.main(['--export-dir', str(tmp_path), '--examples', '20'])
    assert 'Average time in serve.py' in capsys.readouterr().out
    with predictor.from_saved_model(export_dir) as predict_fn:
        expected = predict_fn({key: value})
    np.testing.assert_allclose(expected[output], [[6], [100]], rtol=1e-3)

    loaded = tf2.saved_model.load(export_dir)
    outputs = loaded.signatures['serving_default'](**{key: tf2.constant(value)})
    assert outputs.keys() == expected.keys()
    for name in outputs:
        np.testing.assert_allclose(outputs[name].numpy(), expected[name], rtol=1e-6)

    shown = cli('show', '--dir', export_dir, '--all')
    signatures = re.findall(r"signature_def\['(\w+)'\]", shown)
    methods = re.findall(r'Method name is: tensorflow/serving/(\w+)', shown)
    assert dict(zip(signatures, methods)) == {
        'serving_default': 'predict', **({'hidden': 'predict'} if hidden_units else {}),
        **({'regression': 'regress'} if receiver == 'example' else {})}  # the Regress API takes Examples only
    if receiver == 'example':
        run = cli('run', '--dir', export_dir, '--tag_set', 'serve', '--signature_def', 'regression',
                  '--input_examples', 'inputs=[{"number":[3.0]},{"number":[50.0]}]')
    else:
        run = cli('run', '--dir', export_dir, '--tag_set', 'serve', '--signature_def', 'serving_default',
                  '--input_exprs', f'{key}={value}')
    printed = run[run.index('[['):] if receiver == 'example' else run[run.index(f'output key {output}'):]
    numbers = [float(number) for number in re.findall(r'\[+\s*([\d.e+-]+)\s*\]', printed)]
    np.testing.assert_allclose(numbers[:2], [6, 100], rtol=1e-3)


def test_heads_are_selectable_by_name(hidden, tmp_path, capsys, ends):
    export.main(['--model-dir', hidden, '--export-dir', str(tmp_path), '--receiver', 'example'])
    export_dir = predictor.latest_export(str(tmp_path))
    request = {'inputs': [example(3.)]}
    with predictor.from_saved_model(export_dir, 'regression') as regression, \
            predictor.from_saved_model(export_dir, 'hidden') as head, predictor.from_saved_model(export_dir) as default:
        np.testing.assert_allclose(regression(request)['outputs'], [[6]], rtol=1e-3)
        expected = default({'examples': [example(3.)]})
        np.testing.assert_array_equal(head({'examples': [example(3.)]})['hidden'], expected['hidden'])
        tensors = {name: next(iter(head.feed_tensors.values())).name
                   for name, head in (('regression', regression), ('hidden', head), ('default', default))}
    assert set(tensors.values()) == {'input_example_tensor:0'}  # all the same input
    for signature in ('regression', 'hidden'):
        serve.main(['--export-dir', str(tmp_path), '--examples', '5', '--signature', signature])
        assert 'Average time in serve.py' in capsys.readouterr().out
    assert "no signature 'nonsense', only ['hidden', 'regression', 'serving_default']" in \
        ends(serve, '--export-dir', tmp_path, '--signature', 'nonsense')


def test_training_and_receivers_share_the_preprocessing(monkeypatch, trained, tmp_path):
    # With another number_to_features, all that were to go through it answer accordingly: f([x/2, x/2]) = x.
    monkeypatch.setattr(model, 'number_to_features', lambda number: tf.tile(number / 2, [1, 2]))
    for receiver in ('number', 'example'):
        export.main(['--model-dir', trained, '--export-dir', str(tmp_path / receiver), '--receiver', receiver])
        with predictor.from_saved_model(predictor.latest_export(str(tmp_path / receiver))) as predict_fn:
            key, value = INPUTS[receiver]
            np.testing.assert_allclose(predict_fn({key: value})['output'], [[3], [50]], rtol=1e-3)
    with tf.Graph().as_default(), tf.Session() as session:
        features, labels = session.run(tf.data.make_one_shot_iterator(train.train_input_fn(0)).get_next())
    np.testing.assert_allclose(features, np.tile(labels / 4, [1, 2]))


def test_keep_removes_the_oldest_exports_and_nothing_else(trained, exported, tmp_path, capsys):
    [timestamp] = os.listdir(exported)
    for name in ('3', '20', '100', 'temp-7', 'notes'):
        shutil.copytree(os.path.join(exported, timestamp), tmp_path / name)
    (tmp_path / '2').mkdir()  # a number for a name, and no export
    (tmp_path / '2' / 'mine').write_text('')
    (tmp_path / '1').write_text('')
    export.main(['--model-dir', trained, '--export-dir', str(tmp_path), '--keep', '2'])
    newest = os.path.basename(predictor.latest_export(str(tmp_path)))
    assert set(os.listdir(tmp_path)) == {newest, '100', 'temp-7', 'notes', '2', '1'}
    assert f'Removed {tmp_path}/20\nRemoved {tmp_path}/3\n' in capsys.readouterr().out
    export.main(['--model-dir', trained, '--export-dir', str(tmp_path), '--keep', '1'])
    assert set(os.listdir(tmp_path)) > {'temp-7', 'notes', '2', '1'} and '100' not in os.listdir(tmp_path)


def test_export_of_another_checkpoint(tmp_path, ends):
    train.main(['--model-dir', str(tmp_path / 'model')])
    checkpoint = tmp_path / 'model/model.ckpt-0'
    export.main(['--model-dir', str(tmp_path / 'model'), '--export-dir', str(tmp_path / 'old'),
                 '--checkpoint', str(checkpoint)])
    with predictor.from_saved_model(predictor.latest_export(str(tmp_path / 'old'))) as predict_fn:
        expected = tf.train.load_variable(str(checkpoint), 'dense/kernel').sum()
        np.testing.assert_allclose(predict_fn({'number': [[1]]})['output'], [[expected]], rtol=1e-6)
    for nonsense in (tmp_path / 'model/model.ckpt-7', tmp_path / 'model', 'nonsense', ''):
        assert ends(export, '--model-dir', tmp_path / 'model', '--export-dir', tmp_path / 'new',
                    '--checkpoint', nonsense).startswith(f'no checkpoint {nonsense}: expected a path as ')
    assert not (tmp_path / 'new').exists()


def test_best_stops_early_and_exports(tmp_path, capsys):
    train.main(['--model-dir', str(tmp_path / 'model'), '--best', str(tmp_path / 'best'), '--steps', '20000'])
    best = predictor.latest_export(str(tmp_path / 'best'))
    assert f'Exported the best model to {best}\n' in capsys.readouterr().out
    assert tf.train.load_variable(str(tmp_path / 'model'), 'global_step') < 10_000
    with predictor.from_saved_model(best) as predict_fn:
        numbers = np.arange(201.)[:, None]
        np.testing.assert_allclose(predict_fn({'number': numbers})['output'], 2 * numbers, rtol=1e-3, atol=1e-3)
    assert os.listdir(tmp_path / 'best') == [os.path.basename(best)]


def test_best_needs_a_model_dir_of_its_own(trained, tmp_path, ends):
    before = snapshot(trained)
    for steps in ('500', '2000'):
        assert f'--best trains from the beginning, and {trained} has 1,000 steps' in \
            ends(train, '--model-dir', trained, '--best', tmp_path / 'best', '--steps', steps)
    assert snapshot(trained) == before and os.listdir(tmp_path) == []


def test_keep_never_removes_the_export_just_made(trained, exported, tmp_path, capsys):
    [timestamp] = os.listdir(exported)
    shutil.copytree(os.path.join(exported, timestamp), tmp_path / '9999999999')  # from a clock that was ahead
    export.main(['--model-dir', trained, '--export-dir', str(tmp_path), '--keep', '1'])
    [left] = os.listdir(tmp_path)
    assert f'Exported to {tmp_path}/{left}.' in capsys.readouterr().out and left != '9999999999'


def test_numbers_to_evaluate_on_are_held_out():
    with tf.Graph().as_default(), tf.Session() as session:
        features, labels = session.run(tf.data.make_one_shot_iterator(train.eval_input_fn()).get_next())
    assert not {number for [number], _ in train.train_generator_fn()} & set(features[:, 0])
    np.testing.assert_array_equal(labels, 2 * features[:, :1])


def test_another_network_in_place_of_build_fn(monkeypatch, tmp_path, capsys, ends, trained):
    def build_fn(features, params):
        a = tf.get_variable('a', [], initializer=tf.zeros_initializer())
        return {'predictions': a * tf.reduce_sum(features, 1, keepdims=True), 'a': tf.tile([a], tf.shape(features)[:1])}

    monkeypatch.setattr(model, 'build_fn', build_fn)
    model_dir, export_dir = str(tmp_path / 'model'), str(tmp_path / 'saved_model')
    train.main(['--model-dir', model_dir])
    export.main(['--model-dir', model_dir, '--export-dir', export_dir])
    for module in (predict, fast_predict):
        module.main(['--model-dir', model_dir, '--examples', '5'])
    serve.main(['--export-dir', export_dir, '--examples', '5'])
    assert capsys.readouterr().out.count('Average time in') == 4
    assert tf.train.load_variable(model_dir, 'a') == pytest.approx(1, rel=1e-3)
    assert "{'a': None}" in ends(predict, '--model-dir', trained)  # a checkpoint of the other network


def test_pretrained_serves_and_stays_as_it_is(script):
    root = os.path.dirname(os.path.abspath(model.__file__))
    before = snapshot(os.path.join(root, 'pretrained'))
    assert sum(map(len, before.values())) < 50_000
    for args in (('predict.py', '--model-dir', f'{root}/pretrained/model', '--examples', '3'),
                 ('fast_predict.py', '--model-dir', f'{root}/pretrained/model', '--examples', '30'),
                 ('serve.py', '--export-dir', f'{root}/pretrained/saved_model', '--examples', '30')):
        process = script(*args)
        assert f'Average time in {args[0]}' in process.stdout, process.stderr
    assert snapshot(os.path.join(root, 'pretrained')) == before
    assert_learned(os.path.join(root, 'pretrained/model'))
