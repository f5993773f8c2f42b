"""SavedModels that tests make, and what a plain session answers from them."""

import os

import numpy as np
import pytest

from estimator_inference import tf


def signature_def(inputs, outputs):
    return tf.saved_model.build_signature_def(
        *(
            {key: tf.saved_model.build_tensor_info(tensor) for key, tensor in tensors.items()}
            for tensors in (inputs, outputs)
        ),
        'tensorflow/serving/predict',
    )


@pytest.fixture
def save(tmp_path):
    """Saves the graph that `build` makes, which returns (inputs, outputs) or {signature: (inputs, outputs)}."""
    graphs = []  # the functions of tf.py_func live as long as the graph they were made in

    def run(build, *args, tags=(('serve',),), path=None, as_text=False, config=None):
        export_dir = str(path or tmp_path / f'export-{len(os.listdir(tmp_path))}')
        builder = tf.saved_model.builder.SavedModelBuilder(export_dir)
        graphs.append(tf.Graph())
        with graphs[-1].as_default(), tf.Session(config=config) as session:
            signatures = build(*args)
            if isinstance(signatures, tuple):
                signatures = {'serving_default': signatures}
            signatures = {key: signature_def(*tensors) for key, tensors in signatures.items()}
            session.run([tf.global_variables_initializer(), tf.tables_initializer()])
            builder.add_meta_graph_and_variables(
                session,
                tags[0],
                signatures,
                main_op=tf.tables_initializer(),
                assets_collection=tf.get_collection(tf.GraphKeys.ASSET_FILEPATHS),
            )
            for more in tags[1:]:
                builder.add_meta_graph(more, signatures)
            builder.save(as_text)
        return export_dir

    return run


def session_run(export_dir, inputs, key='serving_default'):
    """What a plain session answers: the reference."""
    with tf.Session(
        graph=tf.Graph()
    ) as session:  # made within a graph, it would not have soft placement
        signature = tf.saved_model.loader.load(session, ['serve'], export_dir).signature_def[key]
        return session.run(
            {key: info.name for key, info in signature.outputs.items()},
            {signature.inputs[key].name: value for key, value in inputs.items()},
        )


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert type(ours[key]) is type(value)
        assert np.asarray(ours[key]).dtype == np.asarray(value).dtype
        np.testing.assert_array_equal(ours[key], value)


def variable(name, value, use_resource=True):
    return tf.get_variable(
        name, initializer=np.asarray(value, np.float32), use_resource=use_resource
    )


def linear(use_resource=True):
    """[x] -> [3x + 1], with two variables."""
    x = tf.placeholder(tf.float32, [None, 1], 'x')
    return {'x': x}, {'y': x * variable('w', [3], use_resource) + variable('b', [1], use_resource)}


def double(dtype=tf.float32, shape=(None,)):
    x = tf.placeholder(dtype, shape, 'x')
    return {'x': x}, {'y': x + x}


def echo(dtype, shape=(None,)):
    x = tf.placeholder(dtype, shape)
    return {'x': x}, {'y': tf.identity(x)}
