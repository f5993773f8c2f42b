"""The iris scripts: what they print, and that all ways to ask give the same table to the digit."""

import contextlib
import os
import pathlib
import re
import socket
import sys

import support
import numpy as np
import pytest
from estimator_inference import exports, tf
from iris import fast, iris_data, remote, serve, session, train

HEAD = 'SepalLength  SepalWidth  PetalLength  PetalWidth  ClassID  Probability'


@pytest.fixture(scope='session')
def iris_trained(once):
    """A directory with what iris.train writes, model/ and saved_model/, and prints, printed."""

    def make(path):
        os.mkdir(path)
        with open(f'{path}/printed', 'w') as file, contextlib.redirect_stdout(file):
            flags = '--model-dir', f'{path}/model', '--export-dir', f'{path}/saved_model'
            train.main(flags)

    return pathlib.Path(once('iris', make))


@pytest.fixture(scope='session')
def scores(iris_trained):
    """The probabilities of the three flowers, as the Estimator predicts them: [3, 3]."""
    estimator = iris_data.build_classifier(str(iris_trained / 'model'))
    predictions = estimator.predict(lambda: train.eval_input_fn(iris_data.FLOWERS))
    return np.array([prediction['probabilities'] for prediction in predictions])


@pytest.fixture(scope='session')
def expected(scores):
    """The table that each way to ask prints."""
    return (
        f'{HEAD}\n'
        f'        5.1         3.3          1.7         0.5        0     {scores[0, 0]:.6f}\n'
        f'        5.9         3.0          4.2         1.5        1     {scores[1, 1]:.6f}\n'
        f'        6.9         3.1          5.4         2.1        2     {scores[2, 2]:.6f}\n'
    )


@pytest.fixture(scope='module')
def ports(iris_trained):
    """The ports, gRPC's and REST's, of a stand-in for TensorFlow Serving with the model iris."""
    pytest.importorskip('tensorflow_serving')
    from examples.serving import model_server

    with model_server.serving({'iris': str(iris_trained / 'saved_model')}) as ports:
        yield ports


def test_data():
    features, labels = iris_data.load('iris_training.csv')
    assert [features[key][0] for key in iris_data.FEATURES] == pytest.approx([6.4, 2.8, 5.6, 2.2])
    assert labels[0] == 2
    assert [len(column) for column in (*features.values(), labels)] == [120] * 5
    features, labels = iris_data.load('iris_test.csv')
    assert [len(column) for column in (*features.values(), labels)] == [30] * 5
    assert set(labels) == {0, 1, 2}


def test_examples_hold_the_features_of_a_flower_each():
    spec = tf.feature_column.make_parse_example_spec(iris_data.COLUMNS)
    examples = [example.SerializeToString() for example in iris_data.to_examples(iris_data.ROWS)]
    with tf.Graph().as_default(), tf.Session() as sess:
        parsed = sess.run(tf.parse_example(examples, spec))
    assert parsed.keys() == iris_data.FLOWERS.keys()
    for key, values in iris_data.FLOWERS.items():
        np.testing.assert_array_equal(parsed[key], np.array(values, np.float32)[:, None])


def test_the_table_takes_the_likeliest_class(capsys):
    classes = [[b'0', b'1', b'2'], [b'0', b'1', b'2'], ['2', '0', '1']]
    iris_data.print_table(classes, [[0.2, 0.7, 0.1], [1.0, 0.0, 0.0], [0.25, 0.25, 0.5]])
    assert capsys.readouterr().out.splitlines() == [
        HEAD,
        '        5.1         3.3          1.7         0.5        1     0.700000',
        '        5.9         3.0          4.2         1.5        0     1.000000',
        '        6.9         3.1          5.4         2.1        1     0.500000',
    ]


def test_train(iris_trained, scores):
    accuracy, *lines, exported = (iris_trained / 'printed').read_text().splitlines()
    assert float(re.fullmatch(r'Test set accuracy: (\d\.\d{3})', accuracy)[1]) >= 0.93
    assert lines == [
        f'Prediction is "Setosa" ({scores[0, 0]:.1%}), expected "Setosa"',
        f'Prediction is "Versicolor" ({scores[1, 1]:.1%}), expected "Versicolor"',
        f'Prediction is "Virginica" ({scores[2, 2]:.1%}), expected "Virginica"',
    ]
    newest = exports.latest(iris_trained / 'saved_model')
    assert exported.startswith('Exported to ')
    assert os.path.basename(exported) == os.path.basename(newest)
    assert tf.train.load_variable(str(iris_trained / 'model'), 'global_step') == 1000

    [meta_graph] = exports.read(newest).meta_graphs
    signature = meta_graph.signature_def['serving_default']
    assert signature.method_name == 'tensorflow/serving/classify'
    assert list(signature.inputs) == ['inputs']
    assert sorted(signature.outputs) == ['classes', 'scores']


@pytest.mark.parametrize(
    'script, flag, made',
    [
        (serve, '--export-dir', 'saved_model'),
        (session, '--export-dir', 'saved_model'),
        (fast, '--model-dir', 'model'),
    ],
)
def test_each_way_to_ask_prints_the_same_table(
    script, flag, made, iris_trained, expected, capsys, tmp_path
):
    script.main([flag, str(iris_trained / made)])
    assert capsys.readouterr().out == expected
    with pytest.raises((support.Error, FileNotFoundError), match=f'no .* {tmp_path}'):
        script.main([flag, str(tmp_path)])


@pytest.mark.parametrize('flags', [[], ['--rest']])
def test_a_server_gives_the_same_table_and_its_version(
    flags, ports, iris_trained, expected, capsys
):
    port = ports[len(flags)]
    remote.main([*flags, '--port', str(port)])
    version = os.path.basename(exports.latest(iris_trained / 'saved_model'))
    answered = f'Answered by version {version} of the model iris at 127.0.0.1:{port}\n'
    assert capsys.readouterr().out == expected + answered


@pytest.mark.parametrize('flags', [[], ['--rest']])
def test_why_a_server_does_not_answer(flags, ports, free_port, monkeypatch):
    def why(port):
        with pytest.raises(support.Error) as error:
            remote.main([*flags, '--port', str(port)])
        who, _, reason = str(error.value).partition(f'the model iris at 127.0.0.1:{port}: ')
        assert who == 'no answer from ' and '\n' not in reason
        return reason

    from examples.serving import model_server

    with model_server.serving({}) as empty:
        assert re.search('Servable not found|Not Found', why(empty[len(flags)]))
    assert 'refused' in why(free_port())
    assert why(ports[not flags])  # the port of the other protocol
    monkeypatch.setattr(remote, 'TIMEOUT', 0.2)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        assert re.search('Deadline Exceeded|timed out', why(silent.getsockname()[1]))


def test_grpc_without_tensorflow_serving_api(monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorflow_serving', None)
    monkeypatch.setitem(sys.modules, 'tensorflow_serving.apis', None)
    with pytest.raises(support.Error, match=r"pip install '\.\[serving\]', or ask by --rest"):
        remote.main([])
