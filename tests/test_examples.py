"""The examples: receivers, heads, any signature, the best model, a cluster, a web application."""

import json
import sys
import time
import urllib.request
from concurrent import futures

import support
import numpy as np
import pytest
import train
from conftest import assert_same, session_run
from estimator_inference import exports, predictor, tf
from examples import cluster, receivers_and_heads, serve_any_signature, train_and_evaluate, web_app


def example(number):
    example = tf.train.Example()
    example.features.feature['number'].float_list.value.append(number)
    return example.SerializeToString()


# For each receiver, what stands for the numbers 3 and 50.
INPUTS = {
    'number': ('number', [[3.0], [50.0]]),
    'raw': ('feature', [[3.0, 3.0], [50.0, 50.0]]),
    'example': ('examples', [example(3.0), example(50.0)]),
}


def export(model_dir, export_dir, *flags):
    flags = ['--model-dir', str(model_dir), '--export-dir', str(export_dir), *flags]
    receivers_and_heads.main(flags)
    return exports.latest(export_dir)


# Receivers and heads.


@pytest.mark.parametrize('receiver', INPUTS)
def test_a_receiver_gives_the_features_that_were_trained_on(receiver):
    with tf.Graph().as_default(), tf.Session() as session:
        received = receivers_and_heads.RECEIVERS[receiver]()
        [placeholder] = received.receiver_tensors.values()
        features = session.run(received.features, {placeholder: INPUTS[receiver][1]})
    features = features['feature'] if isinstance(features, dict) else features
    examples = [features for features, _ in train.train_generator_fn()]
    np.testing.assert_array_equal(features, [examples[3], examples[50]])


@pytest.mark.parametrize('receiver', INPUTS)
def test_receivers(receiver, trained, tmp_path, capsys):
    export_dir = export(trained, tmp_path, '--receiver', receiver)
    checkpoint = tf.train.latest_checkpoint(trained)
    assert capsys.readouterr().out == f'Exported {checkpoint} to {export_dir}\n'
    [meta_graph] = exports.read(export_dir).meta_graphs
    assert list(meta_graph.signature_def) == ['serving_default']

    key, value = INPUTS[receiver]
    with predictor.from_saved_model(export_dir) as predict_fn:
        outputs = predict_fn({key: value})
        [feed] = predict_fn.feed_tensors.values()
        one = predict_fn({key: serve_any_signature.to_input(feed, 50)})
    np.testing.assert_allclose(one['output'], [[100]], rtol=1e-2)
    np.testing.assert_allclose(outputs['output'], [[6], [100]], rtol=1e-2)
    assert_same(outputs, session_run(export_dir, {key: value}))


def test_heads(hidden, tmp_path, capsys):
    export_dir = export(hidden, tmp_path, '--receiver', 'example', '--heads')
    [meta_graph] = exports.read(export_dir).meta_graphs
    signatures = meta_graph.signature_def
    assert {key: signature.method_name for key, signature in signatures.items()} == {
        'serving_default': 'tensorflow/serving/predict',
        'hidden': 'tensorflow/serving/predict',
        'regression': 'tensorflow/serving/regress',
    }
    [tensor] = {info.name for head in signatures.values() for info in head.inputs.values()}
    assert tensor == 'input_example_tensor:0'  # all have the same input

    def ask(key, **inputs):
        with predictor.from_saved_model(export_dir, key) as predict_fn:
            return predict_fn(inputs)

    both = ask('serving_default', examples=[example(3.0)])
    np.testing.assert_allclose(both['predictions'], [[6]], rtol=1e-2)
    regression = ask('regression', inputs=[example(3.0)])
    assert_same(regression, {'outputs': both['predictions']})
    assert_same(ask('hidden', examples=[example(3.0)]), {'hidden': both['hidden']})

    capsys.readouterr()
    serve_any_signature.main(['--export-dir', str(tmp_path), '--signature', 'regression'])
    takes, first, _, _ = capsys.readouterr().out.splitlines()
    assert takes.startswith("regression takes {'inputs': ")
    outputs = ask('regression', inputs=[example(100.0)])
    assert first == f'100: {outputs}'


def test_without_a_hidden_layer_the_heads_serve_the_posts_scripts(trained, tmp_path):
    export_dir = export(trained, tmp_path, '--heads')
    with predictor.from_saved_model(export_dir) as predict_fn:  # as serve.py
        np.testing.assert_allclose(predict_fn({'number': [[3]]})['output'], [[6]], rtol=1e-2)


def test_another_checkpoint(trained, tmp_path, capsys):
    checkpoint = f'{trained}/model.ckpt-0'
    export_dir = export(trained, tmp_path, '--checkpoint', checkpoint)
    assert capsys.readouterr().out == f'Exported {checkpoint} to {export_dir}\n'
    expected = tf.train.load_variable(checkpoint, 'dense/kernel').sum()
    with predictor.from_saved_model(export_dir) as predict_fn:
        np.testing.assert_allclose(predict_fn({'number': [[1]]})['output'], [[expected]], rtol=1e-6)
    with pytest.raises(support.Error, match='no checkpoint nonsense'):
        export(trained, tmp_path, '--checkpoint', 'nonsense')


# Any signature, here or over the network.


@pytest.fixture(scope='module')
def addresses(exported):
    """The two of a stand-in for TensorFlow Serving with the model double: gRPC and REST."""
    pytest.importorskip('tensorflow_serving')
    from examples.serving import model_server

    with model_server.serving({'double': exported}) as (grpc_port, rest_port):
        yield f'127.0.0.1:{grpc_port}', f'http://127.0.0.1:{rest_port}'


def test_a_signature_over_the_network_answers_as_here(exported, addresses, capsys):
    serve_any_signature.main(['--export-dir', exported])
    here = capsys.readouterr().out.splitlines()
    assert here[0].startswith("serving_default takes {'number': ")
    assert here[1].startswith("100: {'output': array([[") and len(here) == 4
    for address in addresses:
        serve_any_signature.main(['--remote', address])
        assert capsys.readouterr().out.splitlines()[1:] == here[1:]


def test_no_such_signature_and_no_server(exported, addresses, free_port):
    for flags in (['--export-dir', exported], *(['--remote', address] for address in addresses)):
        with pytest.raises(support.Error, match="'nonsense'.*serving_default"):
            serve_any_signature.main([*flags, '--signature', 'nonsense'])
    nobody = f'127.0.0.1:{free_port()}'
    with pytest.raises(support.Error, match=f"'double' at {nobody}"):
        serve_any_signature.main(['--remote', nobody])


# The best model.


def numbers_in(capsys, words):
    """Returns the first number behind these words in what was printed."""
    return int(capsys.readouterr().out.partition(words)[2].split(';')[0])


def test_it_stops_where_the_loss_does_not_fall_and_keeps_the_best(tmp_path, monkeypatch, capsys):
    def model_fn(features, labels, mode, params):
        """The loss of step n is that of |step - 100| / 100: the best is step 100."""
        step = tf.train.get_or_create_global_step()
        output = tf.cast(step, tf.float32) + 0 * tf.nest.flatten(features)[0][:, :1]
        loss = tf.abs(output[0, 0] - 100) / 100
        train_op = tf.assign_add(step, 1)
        return tf.estimator.EstimatorSpec(mode, output, loss, train_op)

    monkeypatch.setattr(train_and_evaluate, 'model_fn', model_fn)
    train_and_evaluate.main(['--model-dir', str(tmp_path)])
    assert 300 <= numbers_in(capsys, 'Stopped at step ') <= 400

    [best] = (tmp_path / 'export/best').iterdir()
    with predictor.from_saved_model(str(best)) as predict_fn:
        assert predict_fn({'number': [[1]]})['output'] == [[100]]
    assert len(list((tmp_path / 'export/latest').iterdir())) == 3
    with pytest.raises(support.Error, match='choose another --model-dir'):
        train_and_evaluate.main(['--model-dir', str(tmp_path)])


@pytest.mark.slow
def test_the_best_model_answers_2x(tmp_path, capsys):
    train_and_evaluate.main(['--model-dir', str(tmp_path)])
    assert numbers_in(capsys, 'Stopped at step ') < 10_000
    numbers = np.arange(201.0)[:, None]
    with predictor.from_saved_model(exports.latest(tmp_path / 'export/best')) as predict_fn:
        outputs = predict_fn({'number': numbers})['output']
    np.testing.assert_allclose(outputs, 2 * numbers, rtol=1e-2, atol=1e-2)


def test_numbers_to_evaluate_on_are_held_out():
    with tf.Graph().as_default(), tf.Session() as session:
        iterator = tf.data.make_one_shot_iterator(train_and_evaluate.eval_input_fn())
        features, labels = session.run(iterator.get_next())
    assert features.shape == (100, 2) and labels.shape == (100, 1)
    assert not {number for [number, _], _ in train.train_generator_fn()} & set(features[:, 0])
    np.testing.assert_array_equal(labels, 2 * features[:, :1])


# A cluster.


@pytest.fixture
def tasks(monkeypatch):
    """The processes that cluster.start starts, in their order. None is left at the end."""
    started, start = [], cluster.start

    def run(*args):
        started.append(start(*args))
        return started[-1]

    monkeypatch.setattr(cluster, 'start', run)
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_three_processes_train_and_a_killed_worker_rejoins(tmp_path, capsys, tasks):
    printed = ''

    def wait_for(task, words):
        """Waits until a task prints a line with these words, from now on."""
        nonlocal printed
        seen, end = len(printed), time.monotonic() + 300
        while not any(
            line.startswith(task) and words in line for line in printed[seen:].splitlines()
        ):
            assert time.monotonic() < end, printed
            time.sleep(0.1)
            printed += capsys.readouterr().out

    addresses, flags = cluster.free_addresses(), ('--model-dir', str(tmp_path))
    ps, chief, worker, evaluator = (
        cluster.start(task, addresses, *flags) for task in (*cluster.TASKS, 'evaluator')
    )
    wait_for('worker', ', step = ')
    worker.kill()
    wait_for('chief', ', step = ')  # without it
    worker = cluster.start('worker', addresses, *flags)
    wait_for('worker', ', step = ')
    assert [task.wait(300) for task in (chief, worker, evaluator)] == [0, 0, 0]
    assert ps.poll() is None
    assert tf.train.load_variable(str(tmp_path), 'global_step') >= 3000
    printed += capsys.readouterr().out
    assert 'evaluator | INFO:tensorflow:Saving dict for global step 3' in printed


@pytest.mark.slow
def test_the_model_of_a_cluster_answers_2x(tmp_path, capsys, tasks):
    cluster.main(['--model-dir', str(tmp_path)])
    printed = capsys.readouterr().out
    for task in ('chief', 'worker'):  # both did steps
        assert any(line.startswith(task) and ', step = ' in line for line in printed.splitlines())
    assert float(printed.rpartition('Off by ')[2].split()[0]) < 1
    assert None not in [task.poll() for task in tasks]


def test_its_tasks_end_with_it(tmp_path, tasks, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    def kill_the_ps(seconds):
        tasks[-3].kill()
        tasks[-3].wait()

    monkeypatch.setattr(cluster.time, 'sleep', interrupt)
    with pytest.raises(KeyboardInterrupt):
        cluster.main(['--model-dir', str(tmp_path)])
    monkeypatch.setattr(cluster.time, 'sleep', kill_the_ps)
    with pytest.raises(support.Error, match='the ps ended with status'):
        cluster.main(['--model-dir', str(tmp_path)])
    assert len(tasks) == 6 and None not in [task.poll() for task in tasks]


# The web application.


@pytest.fixture
def client(exported):
    """Flask's client of the application: client(body) -> the response."""
    pytest.importorskip('flask')
    with predictor.from_saved_model(exports.latest(exported)) as predict_fn:
        app = web_app.create_app(predict_fn)
        yield lambda body: app.test_client().post('/', data=body)


def test_the_web_application_answers(client):
    response = client('{"number": [[3], [40.5]]}')
    assert response.status_code == 200
    np.testing.assert_allclose(response.json['output'], [[6], [81]], rtol=1e-2)


def test_each_of_8_threads_gets_its_own_answers(client):
    def ask(thread):
        for number in range(thread * 100 + 1, thread * 100 + 26):
            output = client(json.dumps({'number': [[number]]})).json['output']
            np.testing.assert_allclose(output, [[2 * number]], rtol=1e-2)
            assert client('{"number": "three"}').status_code == 400

    with futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


@pytest.mark.parametrize('body', ['{}', '{"x": 3}', '[3]', '{"number": 3}', '{"number": "three"}'])
def test_a_request_that_the_model_does_not_take(body, client):
    response = client(body)
    assert response.status_code == 400
    assert "'number'" in response.json['error']
    assert client('three').status_code == 400


def test_flask_is_missing(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, 'flask', None)
    with pytest.raises(support.Error, match=r"pip install '\.\[web\]'"):
        web_app.main(['--export-dir', exported])


@pytest.mark.slow
def test_the_web_application_listens(exported, python, free_port):
    pytest.importorskip('flask')
    port = free_port()
    process = python('-m', 'examples.web_app', '--export-dir', exported, '--port', port)
    process.wait_for('Running on')
    request = urllib.request.Request(f'http://127.0.0.1:{port}/', b'{"number": [[3]]}')
    with urllib.request.urlopen(request, timeout=60) as response:
        np.testing.assert_allclose(json.load(response)['output'], [[6]], rtol=1e-2)
    assert f'Serving {exports.latest(exported)}\n' in process.printed()
