"""beyond/: receivers, heads and other checkpoints, which exports are kept, serving them all, and the best model."""

import os
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf2
from conftest import snapshot
from test_scripts import SAVED_MODEL_CLI, TIME, batches_of

import train
from beyond import export, serve, train_and_evaluate
from estimator_inference import exports, predictor, tf
from model import model_fn
from support.errors import command


def example(number):
    feature = tf.train.Feature(float_list=tf.train.FloatList(value=[number]))
    return tf.train.Example(
        features=tf.train.Features(feature={'number': feature})
    ).SerializeToString()


INPUTS = {
    'number': ('number', [[3.0], [50.0]]),
    'raw': ('feature', [[3.0, 3.0], [50.0, 50.0]]),
    'example': ('examples', [example(3.0), example(50.0)]),
}


@pytest.mark.parametrize(
    'receiver, hidden_units',
    [
        ('number', 0),
        ('raw', 0),
        ('example', 4),
        *(
            pytest.param(*arguments, marks=pytest.mark.slow)
            for arguments in [('number', 4), ('raw', 4), ('example', 0)]
        ),
    ],
)
def test_receivers(receiver, hidden_units, request, tmp_path, capsys, script):
    model_dir = request.getfixturevalue('hidden' if hidden_units else 'trained')
    capsys.readouterr()  # what the training printed
    capsys.readouterr()
    export.main(
        ['--model-dir', model_dir, '--export-dir', str(tmp_path), '--receiver', receiver, '--heads']
    )
    export_dir = exports.latest(str(tmp_path))
    assert (
        capsys.readouterr().out
        == f'Exported {tf.train.latest_checkpoint(model_dir)} to {export_dir}\n'
    )
    key, value = INPUTS[receiver]
    output = 'predictions' if hidden_units else 'output'

    serve.main(['--export-dir', str(tmp_path), '--examples', '20'])
    printed = capsys.readouterr().out
    assert printed.startswith(f'Serving {export_dir}\nf(100) = ')
    average = rf'\nAverage time in beyond.serve: [\d.]+s\n\(20 calls: median {TIME}, the first {TIME}\)\n$'
    assert re.search(average, printed)
    with predictor.from_saved_model(export_dir) as predict_fn:
        expected = predict_fn({key: value})
    np.testing.assert_allclose(expected[output], [[6], [100]], rtol=1e-2)

    loaded = tf2.saved_model.load(export_dir)
    outputs = loaded.signatures['serving_default'](**{key: tf2.constant(value)})
    assert outputs.keys() == expected.keys()
    for name in outputs:
        np.testing.assert_allclose(outputs[name].numpy(), expected[name], rtol=1e-6)

    def cli(*args):
        process = script(SAVED_MODEL_CLI, *args)
        assert process.returncode == 0, process.stderr
        return process.stdout

    shown = cli('show', '--dir', export_dir, '--all')
    signatures = re.findall(r"signature_def\['(\w+)'\]", shown)
    methods = re.findall(r'Method name is: tensorflow/serving/(\w+)', shown)
    assert dict(zip(signatures, methods)) == {
        'serving_default': 'predict',
        **({'hidden': 'predict'} if hidden_units else {}),
        **({'regression': 'regress'} if receiver == 'example' else {}),
    }  # the Regress API takes Examples only
    if receiver == 'example':
        run = cli(
            'run',
            '--dir',
            export_dir,
            '--tag_set',
            'serve',
            '--signature_def',
            'regression',
            '--input_examples',
            'inputs=[{"number":[3.0]},{"number":[50.0]}]',
        )
    else:
        run = cli(
            'run',
            '--dir',
            export_dir,
            '--tag_set',
            'serve',
            '--signature_def',
            'serving_default',
            '--input_exprs',
            f'{key}={value}',
        )
    printed = (
        run[run.index('[[') :]
        if receiver == 'example'
        else run[run.index(f'output key {output}') :]
    )
    numbers = [float(number) for number in re.findall(r'\[+\s*([\d.e+-]+)\s*\]', printed)]
    np.testing.assert_allclose(numbers[:2], [6, 100], rtol=1e-2)


def test_heads_only_where_they_are_asked_for(hidden, tmp_path):
    export.main(['--model-dir', hidden, '--export-dir', str(tmp_path), '--receiver', 'example'])
    [meta_graph] = exports.read(exports.latest(str(tmp_path))).meta_graphs
    assert list(meta_graph.signature_def) == ['serving_default']


def test_heads_are_selectable_by_name(hidden, tmp_path, capsys, ends):
    export.main(
        ['--model-dir', hidden, '--export-dir', str(tmp_path), '--receiver', 'example', '--heads']
    )
    export_dir = exports.latest(str(tmp_path))
    request = {'inputs': [example(3.0)]}
    with (
        predictor.from_saved_model(export_dir, 'regression') as regression,
        predictor.from_saved_model(export_dir, 'hidden') as head,
        predictor.from_saved_model(export_dir) as default,
    ):
        np.testing.assert_allclose(regression(request)['outputs'], [[6]], rtol=1e-2)
        expected = default({'examples': [example(3.0)]})
        np.testing.assert_array_equal(
            head({'examples': [example(3.0)]})['hidden'], expected['hidden']
        )
        tensors = {
            name: next(iter(head.feed_tensors.values())).name
            for name, head in (('regression', regression), ('hidden', head), ('default', default))
        }
    assert set(tensors.values()) == {'input_example_tensor:0'}  # all the same input
    capsys.readouterr()
    for signature, first in (
        ('regression', r'f\(100\) = [\d.]+'),
        ('hidden', r'f\(100\) = hidden( -?[\d.]+){4}'),
    ):
        serve.main(['--export-dir', str(tmp_path), '--examples', '5', '--signature', signature])
        printed = capsys.readouterr().out.splitlines()
        assert re.fullmatch(first, printed[1]) and 'Average time in beyond.serve' in printed[-2]
    assert "no signature 'nonsense', only ['hidden', 'regression', 'serving_default']" in ends(
        serve, '--export-dir', tmp_path, '--signature', 'nonsense'
    )


@pytest.mark.parametrize('receiver', export.RECEIVERS)
def test_receivers_give_the_features_that_were_trained_on(receiver):
    with tf.Graph().as_default(), tf.Session() as session:
        received = export.RECEIVERS[receiver]()
        [placeholder] = received.receiver_tensors.values()
        features = session.run(received.features, {placeholder: INPUTS[receiver][1]})
    features = features['feature'] if isinstance(features, dict) else features
    examples = [features for features, _ in train.train_generator_fn()]
    np.testing.assert_array_equal(features, [examples[3], examples[50]])


def test_an_export_of_another_model_is_refused(tmp_path, ends):
    with tf.Graph().as_default(), tf.Session() as session:
        x, y = tf.placeholder(tf.float32, [None, 1]), tf.placeholder(tf.float32, [None, 1])
        for name, inputs, outputs in (
            ('1', {'x': x, 'y': y}, {'output': x + y}),
            ('2', {'x': x}, {'nonsense': x * 2}),
        ):
            tf.saved_model.simple_save(session, str(tmp_path / name / '1'), inputs, outputs)
    assert "takes ['x', 'y'] and gives ['output']" in ends(serve, '--export-dir', tmp_path / '1')
    assert "takes ['x'] and gives ['nonsense']" in ends(serve, '--export-dir', tmp_path / '2')
    assert (
        ends(serve, '--export-dir', tmp_path / '3')
        == f'no export in {tmp_path}/3: run {command("export.py", "--export-dir", str(tmp_path / "3"))}'
    )


def test_wrong_answers_end_it(tmp_path, ends, monkeypatch, trained):
    monkeypatch.setitem(
        export.RECEIVERS,
        'number',
        lambda: tf.estimator.export.TensorServingInputReceiver(
            tf.tile(3 * (number := tf.placeholder(tf.float32, [None, 1])), [1, 2]),
            {'number': number},
        ),
    )
    export.main(['--model-dir', trained, '--export-dir', str(tmp_path)])
    assert re.search(
        r'f\(100\) = \S+, expected 200', ends(serve, '--export-dir', tmp_path, '--examples', '5')
    )


def test_export_of_another_checkpoint(trained, tmp_path, ends, capsys):
    checkpoint = f'{trained}/model.ckpt-0'
    export.main(
        ['--model-dir', trained, '--export-dir', str(tmp_path / 'old'), '--checkpoint', checkpoint]
    )
    exported = exports.latest(str(tmp_path / 'old'))
    assert capsys.readouterr().out == f'Exported {checkpoint} to {exported}\n'
    with predictor.from_saved_model(exported) as predict_fn:
        expected = tf.train.load_variable(checkpoint, 'dense/kernel').sum()
        np.testing.assert_allclose(predict_fn({'number': [[1]]})['output'], [[expected]], rtol=1e-6)
    for nonsense in (f'{trained}/model.ckpt-7', trained, 'nonsense', ''):
        assert (
            ends(
                export,
                '--model-dir',
                trained,
                '--export-dir',
                tmp_path / 'new',
                '--checkpoint',
                nonsense,
            )
            == f'no checkpoint {nonsense}: expected a path as {trained}/model.ckpt-1000'
        )
    assert not os.path.exists(tmp_path / 'new') or os.listdir(tmp_path / 'new') == []


def test_a_damaged_checkpoint_by_name(trained, tmp_path, ends):
    model_dir = shutil.copytree(trained, tmp_path / 'model')
    (model_dir / 'model.ckpt-250.index').write_bytes(b'')
    checkpoint = f'{model_dir}/model.ckpt-250'
    assert f'the checkpoint {checkpoint} is damaged (' in ends(
        export,
        '--model-dir',
        model_dir,
        '--export-dir',
        tmp_path / 'new',
        '--checkpoint',
        checkpoint,
    )


# The best model.


def best(directory):
    return ['--model-dir', str(directory / 'model'), '--export-dir', str(directory / 'best')]


def test_stops_early_where_the_loss_does_not_fall(tmp_path, monkeypatch, capsys):
    def model_fn_at_rest(features, labels, mode, params):
        return model_fn(features, labels, mode, {'learning_rate': 0.0})

    monkeypatch.setattr(train_and_evaluate, 'model_fn', model_fn_at_rest)
    train_and_evaluate.main([*best(tmp_path), '--steps', '20000'])
    exported = exports.latest(str(tmp_path / 'best'))
    assert capsys.readouterr().out.endswith(f'Exported the best model to {exported}\n')
    assert 200 <= tf.train.load_variable(str(tmp_path / 'model'), 'global_step') <= 350
    with predictor.from_saved_model(exported) as predict_fn:  # the best is the first
        kernel = tf.train.load_variable(str(tmp_path / 'model'), 'dense/kernel')
        np.testing.assert_allclose(
            predict_fn({'number': [[5]]})['output'], [[5 * kernel.sum()]], rtol=1e-5
        )


@pytest.mark.slow
def test_best_stops_early_and_exports(tmp_path, capsys):
    train_and_evaluate.main([*best(tmp_path), '--steps', '20000'])
    exported = exports.latest(str(tmp_path / 'best'))
    assert capsys.readouterr().out.endswith(f'Exported the best model to {exported}\n')
    assert tf.train.load_variable(str(tmp_path / 'model'), 'global_step') < 10_000
    with predictor.from_saved_model(exported) as predict_fn:
        numbers = np.arange(201.0)[:, None]
        np.testing.assert_allclose(
            predict_fn({'number': numbers})['output'], 2 * numbers, rtol=1e-2, atol=1e-2
        )
    assert os.listdir(tmp_path / 'best') == [os.path.basename(exported)]


def test_best_of_few_steps_with_a_hidden_layer(tmp_path):
    train_and_evaluate.main([*best(tmp_path), '--steps', '60', '--hidden-units', '3'])
    with predictor.from_saved_model(exports.latest(str(tmp_path / 'best'))) as predict_fn:
        assert predict_fn({'number': [[1]]})['hidden'].shape == (1, 3)


def test_best_needs_a_model_dir_of_its_own(trained, tmp_path, ends):
    before = snapshot(trained)
    for steps in ('500', '2000'):
        assert (
            ends(
                train_and_evaluate,
                '--model-dir',
                trained,
                '--export-dir',
                tmp_path / 'best',
                '--steps',
                steps,
            )
            == f'it trains from the beginning, and {trained} has a checkpoint: choose another --model-dir'
        )
    assert snapshot(trained) == before and os.listdir(tmp_path) == []


def test_numbers_to_evaluate_on_are_held_out():
    [(features, labels)] = batches_of(train_and_evaluate.eval_input_fn)
    assert features.shape == (100, 2) and labels.shape == (100, 1)
    assert not {number for [number, _], _ in train.train_generator_fn()} & set(features[:, 0])
    np.testing.assert_array_equal(labels, 2 * features[:, :1])
