"""The six scripts and support.py: the posts' steps, what they print, and what bad input gets."""

import contextlib
import functools
import os
import pathlib
import random
import re
import shutil
import signal
import sys

import support
import export
import fast_predict
import numpy as np
import predict
import pytest
import serve
import train
from conftest import ROOT, snapshot
from estimator_inference import exports, predictor, tf
from model import model_fn

LIBRARY = "fast_predict.py with the library's FastPredict"


def printed(script, calls, batch=1):
    """Returns the pattern of what `report` prints for the numbers from 100 on."""
    numbers = range(100, 100 + min(calls * batch, 3))
    answers = ''.join(rf'f\({number}\) = {2 * number}\.\d\d\n' for number in numbers)
    average = rf'Average time in {re.escape(script)}: \d+\.?\d*s\n'
    return answers + average + rf'\({calls:,} calls: median [\d.]+ .?s, the first [\d.]+ .?s\)\n'


def assert_learned(model_dir):
    """Predictions for 0..200, which is twice as far as was trained, are within 1 % of 2x."""
    params = support.params(str(model_dir))
    estimator = tf.estimator.Estimator(model_fn, str(model_dir), params=params)
    numbers = np.arange(201, dtype=np.float32)
    features = np.stack([numbers, numbers], 1)
    predictions = estimator.predict(lambda: tf.data.Dataset.from_tensors(features))
    answers = [support.number_in(prediction) for prediction in predictions]
    np.testing.assert_allclose(answers, 2 * numbers, rtol=1e-2, atol=1e-2)


# The posts' steps.


def test_listings_of_post_a(tmp_path, monkeypatch):
    """They run one after the other, in our words, with nothing but their import lines changed."""

    # Where the post says: import tensorflow as tf, and: from tensorflow.contrib import predictor
    def model_fn(features, labels, mode, params):
        if isinstance(features, dict):
            features = features['feature']
        predictions = tf.layers.dense(features, 1)
        if mode == tf.estimator.ModeKeys.PREDICT:
            return tf.estimator.EstimatorSpec(mode, predictions=predictions)
        loss = tf.nn.l2_loss(predictions - labels)
        if mode == tf.estimator.ModeKeys.EVAL:
            return tf.estimator.EstimatorSpec(mode, loss=loss)
        if mode == tf.estimator.ModeKeys.TRAIN:
            train_op = tf.train.AdamOptimizer(learning_rate=0.5).minimize(
                loss, global_step=tf.train.get_global_step()
            )
            return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)
        raise NotImplementedError(mode)

    def train_generator_fn():
        for n in range(100):
            yield [n, n], [2 * n]

    def train_input_fn():
        dataset = tf.data.Dataset.from_generator(
            train_generator_fn, output_types=(tf.float32, tf.float32), output_shapes=(2, 1)
        )
        return dataset.batch(20).repeat(20)  # the post: 200 times

    def my_service():
        for number in range(100, 103):
            yield number

    def example_input_fn(number):
        dataset = tf.data.Dataset.from_generator(
            lambda: iter([[number, number]]), output_types=tf.float32, output_shapes=2
        )
        return dataset.batch(1).make_one_shot_iterator().get_next(), None

    def serving_input_receiver_fn():
        number = tf.placeholder(dtype=tf.float32, shape=[None, 1], name='number')
        return tf.estimator.export.ServingInputReceiver(
            features=tf.tile(number, multiples=[1, 2]), receiver_tensors={'number': number}
        )

    monkeypatch.chdir(tmp_path)
    estimator = tf.estimator.Estimator(model_fn, 'model', params={})
    estimator.train(train_input_fn)
    assert estimator.latest_checkpoint() == os.path.join('model', 'model.ckpt-100')

    predicted = []
    for nb in my_service():
        for prediction in estimator.predict(functools.partial(example_input_fn, nb)):
            predicted.append(prediction)

    estimator.export_saved_model('saved_model', serving_input_receiver_fn)
    subdirs = [
        path
        for path in pathlib.Path('saved_model').iterdir()
        if path.is_dir() and 'temp' not in str(path)
    ]
    latest = str(sorted(subdirs)[-1])
    predict_fn = predictor.from_saved_model(latest)
    served = []
    for nb in my_service():
        served.append(predict_fn({'number': [[nb]]})['output'])

    # Whether the posts' settings converge depends on the initial weights: so the answers are
    # compared with what the weights give.
    kernel, bias = (estimator.get_variable_value(f'dense/{name}') for name in ('kernel', 'bias'))
    expected = np.array([[nb, nb] for nb in my_service()]) @ kernel + bias
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate(served), expected, rtol=1e-5)


@pytest.mark.slow
def test_the_scripts_one_after_the_other(python, tmp_path):
    """As the README runs them, each in a process of its own, in an empty directory."""

    def run(*args):
        process = python(*args)
        assert process.wait() == 0, process.printed()
        return process.printed()

    assert 'Trained on ' in run('train.py')
    checkpoint = os.path.join('model', 'model.ckpt-1000')
    exported = run('export.py')
    [timestamp] = os.listdir(tmp_path / 'saved_model')
    assert f'Exported {checkpoint} to {os.path.join("saved_model", timestamp)}\n' in exported

    predicted = run('predict.py', '--examples', 4)
    assert re.search(printed('predict.py', 4), predicted)
    assert predicted.count(f'Restoring parameters from {checkpoint}') == 4  # the problem

    predicted = run('fast_predict.py', '--examples', 50, '--batch', 5)
    assert re.search(printed('fast_predict.py', 10, batch=5), predicted)
    assert re.search(printed(LIBRARY, 10, batch=5), predicted)
    assert predicted.count(f'Restoring parameters from {checkpoint}') == 2  # one for each class

    served = run('serve.py', '--examples', 100)
    serving = re.escape(os.path.join('saved_model', timestamp))
    assert re.search(f'Serving {serving}\n', served)
    assert re.search(printed('serve.py', 100), served)


def test_examples_are_those_of_the_posts(monkeypatch):
    assert list(train.train_generator_fn()) == [([n, n], [2 * n]) for n in range(100)]
    assert list(predict.my_service(3)) == list(serve.my_service(3)) == [100, 101, 102]

    def batches():
        with tf.Graph().as_default(), tf.Session() as session:
            batch = tf.data.make_one_shot_iterator(train.train_input_fn()).get_next()
            with contextlib.suppress(tf.errors.OutOfRangeError):
                while True:
                    yield session.run(batch)

    first = [batch for batch, _ in zip(batches(), range(5))]
    assert {(x.shape, y.shape) for x, y in first} == {((20, 2), (20, 1))}
    examples = [(*x, *y) for xs, ys in first for x, y in zip(xs, ys)]
    assert examples != sorted(examples) == [(n, n, 2 * n) for n in range(100)]
    monkeypatch.setattr(train, 'train_generator_fn', lambda: [([1, 1], [2])])  # one batch, not 5
    assert len(list(batches())) == 200


def test_train_learns_2x(trained):
    assert_learned(trained)
    names = [name for name, _ in tf.train.list_variables(trained) if 'Adam' not in name]
    assert {'dense/bias', 'dense/kernel', 'global_step'} <= set(names)
    assert tf.train.load_variable(trained, 'global_step') == 1000


@pytest.mark.slow
@pytest.mark.parametrize('hidden_units', [[], ['--hidden-units', '4']])
@pytest.mark.parametrize('seed', range(2, 7))
def test_other_initial_weights_learn_2x(seed, hidden_units, tmp_path):
    random.seed(seed)
    train.main(['--model-dir', str(tmp_path), *hidden_units])
    assert_learned(tmp_path)


def test_model_fn_evaluates_and_takes_a_dict(trained, tmp_path):
    model_dir = shutil.copytree(trained, tmp_path / 'model')
    estimator = tf.estimator.Estimator(model_fn, str(model_dir), params={})
    metrics = estimator.evaluate(lambda: train.train_input_fn().take(5))
    assert metrics['mean_absolute_error'] < 1e-2 and metrics['root_mean_squared_error'] < 1e-2
    assert metrics['global_step'] == 1000
    features = {'feature': [[3.0, 3.0], [50.0, 50.0]]}
    predictions = estimator.predict(lambda: tf.data.Dataset.from_tensors(features))
    np.testing.assert_allclose([prediction[0] for prediction in predictions], [6, 100], rtol=1e-2)
    with tf.Graph().as_default(), pytest.raises(NotImplementedError, match='unknown mode nonsense'):
        model_fn(tf.zeros([1, 2]), tf.zeros([1, 1]), 'nonsense', {})


def test_hidden_layer_is_predicted_in_each_way(hidden, tmp_path, capsys):
    """Post B's outputs: `hidden` and `predictions`, from the Estimator and from the export."""
    assert_learned(hidden)
    predict.main(['--model-dir', hidden, '--examples', '3'])
    fast_predict.main(['--model-dir', hidden, '--examples', '3'])
    export.main(['--model-dir', hidden, '--export-dir', str(tmp_path)])
    serve.main(['--export-dir', str(tmp_path), '--examples', '3'])
    number = r'-?\d+\.\d\d'
    answers = re.findall(
        rf'f\((\d+)\) = hidden ({number} {number} {number} {number}), predictions ({number})\n',
        capsys.readouterr().out,
    )
    assert len(answers) == 12 and set(answers) == set(answers[:3])
    for number, values, prediction in answers:
        kernel = tf.train.load_variable(hidden, 'dense/kernel')[:, 0]
        output = np.array(values.split(), float) @ kernel + tf.train.load_variable(
            hidden, 'dense/bias'
        )
        np.testing.assert_allclose([output[0], float(prediction)], 2 * int(number), atol=0.1)


@pytest.mark.parametrize('batch', [1, 7])
def test_fast_predict_answers_each_question(trained, batch):
    """The posts' class doesn't: tf.data reads ahead, how far depends on what else runs."""
    estimator = tf.estimator.Estimator(model_fn, trained, params={})
    wrong = {}
    for kind in (fast_predict.FastPredict, fast_predict.PostsFastPredict):
        opened, wrong[kind] = kind(estimator), 0
        for first in range(0, 100 * batch, batch):
            numbers = range(first, first + batch)
            answers = opened.predict([[nb, nb] for nb in numbers])
            wrong[kind] += not np.allclose(np.ravel(answers), 2 * np.array(numbers), atol=0.1)
        opened.close()
    assert wrong[fast_predict.FastPredict] == 0 and wrong[fast_predict.PostsFastPredict] > 0


@pytest.mark.parametrize('written', ['pretrained', 'tests/data/tensorflow_1_15'])
def test_models_that_come_with_the_repository_answer_in_each_script(written, tmp_path, capsys):
    """The second one was written by TensorFlow 1.15."""
    written = os.path.join(ROOT, written)
    before = snapshot(written)
    predict.main(['--model-dir', f'{written}/model', '--examples', '3'])
    fast_predict.main(['--model-dir', f'{written}/model', '--examples', '30'])
    export.main(['--model-dir', f'{written}/model', '--export-dir', str(tmp_path)])
    for export_dir in (f'{written}/saved_model', tmp_path):
        serve.main(['--export-dir', str(export_dir), '--examples', '30'])
    patterns = [printed('predict.py', 3), printed('fast_predict.py', 30), printed(LIBRARY, 30)]
    served = 'Serving .*\n' + printed('serve.py', 30)
    assert re.fullmatch(
        ''.join([*patterns, 'Exported .*\n', served, served]), capsys.readouterr().out
    )
    assert_learned(f'{written}/model')
    assert snapshot(written) == before and sum(map(len, before.values())) < 50_000


def test_serve_takes_the_newest_export(exported, tmp_path, capsys):
    [timestamp] = os.listdir(exported)
    for name in ('temp-9999999999', '5', '40', 'notes'):
        shutil.copytree(os.path.join(exported, timestamp), tmp_path / name)
    (tmp_path / '99').write_text('a file')
    serve.main(['--export-dir', str(tmp_path), '--examples', '1'])
    assert capsys.readouterr().out.startswith(f'Serving {tmp_path / "40"}\n')
    assert exports.latest(str(tmp_path)) == str(tmp_path / '40')


def test_curves_are_in_the_event_files(trained):
    """What `tensorboard --logdir model` shows."""
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(trained).Reload()
    losses = [event.value for event in events.Scalars('loss')]
    assert len(losses) == 10 and losses[-1] < 1e-3 < losses[0]


# What is said where a script can't go on.


@pytest.fixture
def line():
    """Runs a script's main as the script does: it ends with status 1 and this line."""

    def run(script, *args):
        with pytest.raises(SystemExit) as exit:
            support.run(lambda: script.main(list(map(str, args))))
        assert isinstance(exit.value.code, str) and '\n' not in exit.value.code
        return exit.value.code

    return run


@pytest.mark.parametrize('script', [export, predict, fast_predict])
def test_no_checkpoint(script, tmp_path, line):
    nothing = tmp_path / 'nothing'
    assert line(script, '--model-dir', nothing).endswith(
        f': no checkpoint in {nothing}: run python train.py --model-dir {nothing}'
    )
    assert not nothing.exists()


def test_no_export(tmp_path, line):
    (tmp_path / 'temp-1').mkdir()
    assert line(serve, '--export-dir', tmp_path).endswith(
        f': no export in {tmp_path}: run python export.py --export-dir {tmp_path}'
    )


def damage(path, how):
    content = path.read_bytes()
    if how == 'removed':
        path.unlink()
    elif how == 'cut':
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(bytes(255 - byte for byte in content))


@pytest.mark.parametrize('how', ['removed', 'cut', 'changed'])
@pytest.mark.parametrize('name', ['checkpoint', '*.index', '*.data*'])
def test_damaged_checkpoint(name, how, trained, tmp_path, line, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_dir = shutil.copytree(trained, tmp_path / 'model')
    for path in list(model_dir.glob(name)):
        damage(path, how)
    reason = {
        'checkpoint': 'no checkpoint in|checkpoint is damaged',
        '*.index': 'no checkpoint in|sstable|corrupt',
        '*.data*': 'No such file|Read less bytes|Checksum does not match',
    }[name]
    for script in (predict, export):
        assert re.search(reason, line(script, '--model-dir', model_dir))
    assert not list(tmp_path.glob('saved_model/[0-9]*'))


@pytest.mark.parametrize('how', ['removed', 'cut', 'changed'])
@pytest.mark.parametrize('name', ['saved_model.pb', 'variables/*.index', 'variables/*.data*'])
def test_damaged_export(name, how, exported, tmp_path, line):
    export_dir = shutil.copytree(exports.latest(exported), tmp_path / '1')
    for path in list(export_dir.glob(name)):
        damage(path, how)
    assert str(export_dir) in line(serve, '--export-dir', tmp_path, '--examples', 1)


def test_a_checkpoint_of_another_model(trained, hidden, tmp_path, line):
    half = tmp_path / 'half'
    tf.estimator.Estimator(model_fn, str(half), params={}).train(train.train_input_fn, max_steps=1)
    before = snapshot(half)
    for model_dir, *flags in (
        (half, '--hidden-units', 4),
        (trained, '--hidden-units', 4),
        (hidden,),
    ):
        assert 'has another model' in line(train, '--model-dir', model_dir, *flags)
    assert snapshot(half) == before
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable('another', initializer=1.0)
        tf.train.create_global_step()
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / 'model.ckpt'))
    assert "another model than model.py: ['another'" in line(predict, '--model-dir', tmp_path)


def test_an_export_that_takes_no_number(tmp_path, line):
    features = tf.estimator.export.build_raw_serving_input_receiver_fn
    estimator = tf.estimator.Estimator(model_fn, f'{ROOT}/pretrained/model', params={})
    with tf.Graph().as_default():
        placeholder = tf.placeholder(tf.float32, [None, 2])
    estimator.export_saved_model(str(tmp_path), features({'feature': placeholder}))
    said = line(serve, '--export-dir', tmp_path)
    assert "expected an export with the input 'number'" in said and "'feature': float32" in said


@pytest.mark.parametrize('name', ['predict.py', 'fast_predict.py', 'serve.py'])
def test_wrong_answers_end_a_timed_script(name, tmp_path, line):
    estimator = tf.estimator.Estimator(model_fn, str(tmp_path / 'model'), params={})
    estimator.train(train.train_input_fn, max_steps=1)
    estimator.export_saved_model(str(tmp_path / 'saved'), export.serving_input_receiver_fn)
    script, flag, directory = {
        'predict.py': (predict, '--model-dir', 'model'),
        'fast_predict.py': (fast_predict, '--model-dir', 'model'),
        'serve.py': (serve, '--export-dir', 'saved'),
    }[name]
    said = line(script, flag, tmp_path / directory, '--examples', 2)
    assert re.search(r'f\(100\) = .*, expected 200', said)


def test_a_directory_that_cannot_be_written(trained, tmp_path, line):
    (tmp_path / 'file').write_text('')
    for script, flag in ((train, '--model-dir'), (export, '--export-dir')):
        more = ['--model-dir', trained] if script is export else []
        assert re.search('[Nn]ot a directory', line(script, *more, flag, tmp_path / 'file'))


def test_flags_that_cannot_be(capsys):
    for script, *args in (
        (predict, '--examples', '0'),
        (serve, '--examples', '-1'),
        (fast_predict, '--batch', 'x'),
        (train, '--hidden-units', ''),
        (train, '--hidden-unit'),
    ):
        with pytest.raises(SystemExit) as exit:
            script.main(args)
        assert exit.value.code == 2
        assert re.search(r'\nusage: |^usage: ', capsys.readouterr().err)


def test_a_bug_keeps_its_traceback():
    def main():
        {}['a key of ours']

    with pytest.raises(KeyError, match='a key of ours'):
        support.run(main)

    def graph():
        with tf.Graph().as_default(), tf.Session() as session:
            session.run(tf.linalg.inv([[0.0]]))

    with pytest.raises(tf.errors.InvalidArgumentError, match='not invertible'):
        support.run(graph)


# Processes that end early, and what an import changes.


@pytest.mark.slow
def test_a_killed_training_goes_on(python, tmp_path):
    process = python('train.py')
    process.wait_for('Saving checkpoints for 250')
    process.kill()
    process.wait()
    step = int(re.search(r'(\d+)"', (tmp_path / 'model/checkpoint').read_text())[1])
    again = python('train.py')
    assert again.wait() == 0, again.printed()
    if step < 1000:
        assert f'model.ckpt-{step}\n' in again.printed()
    assert_learned(tmp_path / 'model')


def test_a_killed_export_is_never_served(python, trained, exported, tmp_path):
    shutil.copytree(exported, tmp_path / 'saved_model')
    process = python('export.py', '--model-dir', trained)
    process.wait_for('Restoring parameters')
    process.kill()
    process.wait()
    latest = exports.latest(str(tmp_path / 'saved_model'))
    with predictor.from_saved_model(latest) as predict_fn:
        np.testing.assert_allclose(predict_fn({'number': [[3]]})['output'], [[6]], rtol=1e-2)


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no SIGINT for one process')
def test_ctrl_c_in_a_loop(python, trained):
    process = python('predict.py', '--model-dir', trained, '--examples', 10_000)
    process.wait_for('Restoring parameters')
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert 'Traceback' not in process.printed()


def test_an_import_changes_nothing_in_the_process(python):
    """But two environment variables that were not set, and the filter of Estimator's log."""
    process = python(
        '-c',
        """
import os, signal, sys, threading
def state():
    return (sys.excepthook, sys.unraisablehook, threading.excepthook, os.getcwd(),
            [signal.getsignal(number) for number in sorted(signal.valid_signals())])
before, environ = state(), dict(os.environ)
import train, export, predict, fast_predict, serve, compare
assert state() == before
print(sorted(name for name in os.environ if os.environ[name] != environ.get(name)))
try:
    signal.raise_signal(signal.SIGINT)
    while True:
        pass
except KeyboardInterrupt:
    print('caught')
finally:
    print('finally')
""",
        TF_FORCE_GPU_ALLOW_GROWTH='false',
    )
    assert process.wait() == 0, process.printed()
    changed, caught, ended = process.printed().splitlines()[-3:]
    assert set(eval(changed)) - {'TF2_BEHAVIOR', 'TF_USE_LEGACY_KERAS'} <= {'TF_CPP_MIN_LOG_LEVEL'}
    assert (caught, ended) == ('caught', 'finally')


def test_on_a_system_without_what_only_unix_has(python, trained, exported):
    process = python(
        '-c',
        """
import os, sys
for name in 'fcntl', 'resource', 'pwd', 'grp', 'termios':
    sys.modules[name] = None
for name in 'fork', 'register_at_fork', 'sched_getaffinity':
    delattr(os, name) if hasattr(os, name) else None
import train, export, predict, fast_predict, serve
_, trained, exported = sys.argv
train.main(['--model-dir', 'model'])
export.main(['--model-dir', 'model', '--export-dir', 'saved_model'])
predict.main(['--model-dir', trained, '--examples', '1'])
fast_predict.main(['--model-dir', trained, '--examples', '10'])
serve.main(['--export-dir', exported, '--examples', '10'])
""",
        trained,
        exported,
    )
    assert process.wait() == 0, process.printed()
    assert process.printed().count('Average time in') == 4


def test_report(capsys):
    predictions = {1: np.array([2.0]), 2: np.array([[4.0]]), 3: np.array([6.01]), 4: np.array([8])}
    support.report('x.py', predictions, [3e-3, 40e-6, 40e-6])  # four examples in three calls
    hidden = {'hidden': np.array([-1.234, 3.0]), 'predictions': np.array([2.0])}
    support.report('y.py', {1: hidden}, [1.999e-5])
    assert capsys.readouterr().out == (
        'f(1) = 2.00\nf(2) = 4.00\nf(3) = 6.01\nAverage time in x.py: 0.00077s\n'
        '(3 calls: median 40 us, the first 3.0 ms)\n'
        'f(1) = hidden -1.23 3.00, predictions 2.00\nAverage time in y.py: 0.000020s\n'
        '(1 calls: median 20 us, the first 20 us)\n'
    )
    for wrong in (2.03, float('nan'), -2):
        with pytest.raises(support.Error, match=r'f\(1\) = .*, expected 2'):
            support.report('x.py', {1: np.array([wrong])}, [1])


def test_seconds():
    assert [support.seconds(time) for time in (0, 4e-7, 6.14e-6, 99e-6, 1e-3, 0.0651, 1, 12.3)] == [
        *('0.0 us', '0.4 us', '6.1 us', '99 us', '1.0 ms', '65 ms', '1.0 s', '12 s')
    ]
