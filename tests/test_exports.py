"""exports.py: the newest export, and what comes of one that is damaged."""

import os
import shutil
import threading

import pytest
from conftest import double, linear
from estimator_inference import exports, predictor, tf


def truncate(path):
    os.truncate(path, os.path.getsize(path) // 2)


def flip(path):
    with open(path, 'rb+') as file:
        content = file.read()
        file.seek(0)
        file.write(bytes(byte ^ 0x55 for byte in content))


def empty(path):
    os.truncate(path, 0)


SHARD = 'variables/variables.data-00000-of-00001'
DAMAGE = [
    ('saved_model.pb', empty),
    ('saved_model.pb', truncate),
    ('saved_model.pb', flip),
    ('variables', shutil.rmtree),
    ('variables/variables.index', os.remove),
    ('variables/variables.index', truncate),
    ('variables/variables.index', flip),
    (SHARD, os.remove),
    (SHARD, truncate),
    (SHARD, flip),
]


def test_latest_has_the_largest_number(save, tmp_path):
    """As for TensorFlow Serving: ASCII digits, with a saved_model.pb or saved_model.pbtxt below."""
    base = tmp_path / 'exports'
    names = ['1700000001', '1700000000', '10', '9']
    for name in names:
        save(linear, path=base / name)
    save(double, path=base / '1800000000', as_text=True)
    for name in (
        'temp-1900000000',
        '1900000000-copy',
        '1900000000.part',
        '-1900000000',
        '١٩٠٠٠٠٠٠٠٠',
    ):
        shutil.copytree(base / '9', base / name)
    (base / '2000000000').write_text('a file')
    (base / '2000000001').mkdir()
    (base / '2000000002').mkdir()
    (base / '2000000002' / 'variables').mkdir()
    for name in ['1800000000', *names]:
        assert exports.latest(base) == str(base / name)
        shutil.rmtree(base / name)
    with pytest.raises(FileNotFoundError, match='no export in .*exports$'):
        exports.latest(base)


@pytest.mark.parametrize('kind', [str, os.fsencode, lambda path: path, lambda path: f'{path}/'])
def test_paths_of_each_kind(save, tmp_path, kind):
    export_dir = save(linear, path=tmp_path / 'exports' / '7')
    assert os.path.samefile(exports.latest(kind(tmp_path / 'exports')), export_dir)
    assert exports.read(kind(tmp_path / 'exports' / '7')).meta_graphs
    for nothing in (tmp_path / 'nothing', tmp_path):
        with pytest.raises(FileNotFoundError, match=tmp_path.name):
            exports.latest(kind(nothing))
        with pytest.raises(FileNotFoundError, match='saved_model.pb is missing'):
            exports.read(kind(nothing))


def test_through_a_link_nothing_is_followed_but_to_read(save, tmp_path):
    archived = save(linear, path=tmp_path / 'archive' / 'first')
    (tmp_path / 'exports').mkdir()
    try:
        os.symlink(archived, tmp_path / 'exports' / '5', target_is_directory=True)
        os.symlink(tmp_path / 'exports', tmp_path / 'link', target_is_directory=True)
    except OSError:
        pytest.skip('links need a right that this user has not')
    latest = exports.latest(tmp_path / 'link')
    assert latest == str(tmp_path / 'link' / '5')
    with predictor.from_saved_model(latest) as predict_fn:
        assert predict_fn({'x': [[1]]})['y'].tolist() == [[4]]


def test_a_text_export_is_read(save, tmp_path):
    export_dir = save(linear, path=tmp_path / 'exports' / '7', as_text=True)
    assert os.listdir(export_dir).count('saved_model.pbtxt') == 1
    [meta_graph] = exports.read(export_dir).meta_graphs
    assert list(meta_graph.signature_def) == ['serving_default']
    (tmp_path / 'exports' / '7' / 'saved_model.pbtxt').write_text('meta_graphs {')
    with pytest.raises(exports.DamagedExport, match='saved_model.pbtxt is damaged'):
        exports.read(exports.latest(tmp_path / 'exports'))


@pytest.mark.parametrize('name, damage', DAMAGE)
def test_a_damaged_newest_export_is_an_error_that_names_it(save, tmp_path, name, damage):
    """And not an older export's answers: TensorFlow Serving keeps to the newest, too."""
    save(linear, path=tmp_path / 'exports' / '1')
    export_dir = save(linear, path=tmp_path / 'exports' / '2')
    damage(os.path.join(export_dir, name))
    assert exports.latest(tmp_path / 'exports') == export_dir
    with pytest.raises(exports.DamagedExport) as error:
        predictor.from_saved_model(exports.latest(tmp_path / 'exports'))
    text = str(error.value)
    assert export_dir in text and '\n' not in text and len(text) < 1000 and not text.endswith(':')


def test_no_saved_model(tmp_path):
    for path in (tmp_path, tmp_path / 'nowhere'):
        with pytest.raises(FileNotFoundError, match=path.name):
            predictor.from_saved_model(path)


def test_a_reader_during_exports_finds_a_whole_one_each_time(tmp_path):
    def model_fn(features, labels, mode):
        output = features['x'] * tf.get_variable('w', initializer=3.0)
        train_op = tf.assign_add(tf.train.get_global_step(), 1)
        return tf.estimator.EstimatorSpec(mode, output, tf.reduce_sum(output), train_op)

    def receiver_fn():
        x = {'x': tf.placeholder(tf.float32, [None], 'x')}
        return tf.estimator.export.ServingInputReceiver(x, x)

    def write():
        for _ in range(3):  # Estimator waits for the next second's name
            estimator.export_saved_model(base, receiver_fn)

    base, estimator = str(tmp_path / 'exports'), tf.estimator.Estimator(model_fn, str(tmp_path))
    estimator.train(lambda: tf.data.Dataset.from_tensors({'x': [1.0]}), steps=1)
    estimator.export_saved_model(base, receiver_fn)
    writer, loaded = threading.Thread(target=write), []
    writer.start()
    while writer.is_alive():
        loaded.append(exports.latest(base))
        with predictor.from_saved_model(loaded[-1]) as predict_fn:
            assert predict_fn({'x': [2]})['output'].tolist() == [6]
    writer.join()
    assert len(os.listdir(base)) == 4 and len(set(loaded)) > 1
    assert loaded == sorted(loaded) and exports.latest(base) >= loaded[-1]


def test_the_reason_of_an_error_is_between_the_headings_of_its_text():
    """The second text is that of a machine with a GPU."""
    for text in (
        "Graph execution error:\n\nDetected at node 'save':\nNode: 'save'\nToo short\n\t [[x]]",
        '2 root error(s) found.\n  (0) OUT_OF_RANGE: Too short\n\t [[x]]\n  (1) DATA_LOSS: no',
        'Restoring failed. Original error:\n\nGraph execution error:\n\nToo short',
        'Too short',
    ):
        assert exports.reason(ValueError(text)) == 'Too short'
    assert exports.reason(ValueError()) == 'ValueError'
