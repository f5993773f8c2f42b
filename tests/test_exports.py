"""exports.py: the newest complete export, and what comes of exports that are damaged."""

import hashlib
import os
import shutil

import pytest
from conftest import double, linear, save  # noqa: F401

from estimator_inference import exports, predictor, tf


def remove(path):
    shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


def keep(part):
    def run(path):
        with open(path, 'rb+') as file:
            file.truncate(int(os.path.getsize(path) * part))

    return run


def flip(path):
    with open(path, 'rb+') as file:
        content = file.read()
        file.seek(0)
        file.write(bytes(byte ^ 0x55 for byte in content))


SHARD = 'variables/variables.data-00000-of-00001'
HALF_COPIED = [
    ('saved_model.pb', remove),
    ('saved_model.pb', keep(0)),
    ('saved_model.pb', keep(0.5)),
    ('variables', remove),
    ('variables/variables.index', remove),
    (SHARD, remove),
    (SHARD, lambda path: os.rename(path, path[:-1] + '2')),
    (SHARD, lambda path: os.rename(path, path + '.part')),
]


def test_latest_is_the_one_with_the_highest_number(save, tmp_path):
    for name in ('9', '10', '1700000000', 'temp-1800000000', '1900000000-copy', 'x'):
        save(linear, path=tmp_path / 'exports' / name)
    save(double, path=tmp_path / 'exports' / '1700000001')  # without variables
    (tmp_path / 'exports' / '1700000002').write_text('a file')
    (tmp_path / 'exports' / '1700000003').mkdir()
    names = ['1700000001', '1700000000', '10', '9']
    assert list(exports.complete(str(tmp_path / 'exports'))) == [
        str(tmp_path / 'exports' / name) for name in names
    ]
    for name in names:
        assert exports.latest(str(tmp_path / 'exports')) == str(tmp_path / 'exports' / name)
        remove(tmp_path / 'exports' / name)
    with pytest.raises(OSError, match=f'no export in {tmp_path}/exports'):
        exports.latest(str(tmp_path / 'exports'))


@pytest.mark.parametrize('name, damage', HALF_COPIED)
def test_latest_leaves_out_what_is_half_copied(save, tmp_path, name, damage):
    save(linear, path=tmp_path / 'exports' / '1')
    export_dir = save(linear, path=tmp_path / 'exports' / '2')
    assert exports.latest(str(tmp_path / 'exports')) == export_dir
    damage(os.path.join(export_dir, name))
    assert exports.latest(str(tmp_path / 'exports')) == str(tmp_path / 'exports' / '1')


def test_latest_of_no_directory(tmp_path):
    with pytest.raises(OSError, match='nowhere'):
        exports.latest(str(tmp_path / 'nowhere'))


@pytest.mark.parametrize(
    'name, damage',
    HALF_COPIED
    + [
        ('variables/variables.index', keep(0)),
        ('variables/variables.index', keep(0.5)),
        (SHARD, keep(0)),
        (SHARD, keep(0.5)),
        ('saved_model.pb', flip),
        ('variables/variables.index', flip),
        (SHARD, flip),
    ],
)
def test_a_damaged_export_is_one_clear_error(save, name, damage):
    export_dir = save(linear)
    damage(os.path.join(export_dir, name))
    with pytest.raises((ValueError, OSError)) as error:
        predictor.from_saved_model(export_dir)
    message = str(error.value)
    assert export_dir in message and '\n' not in message and len(message) < 1000
    assert (
        not message.endswith(':') and 'Graph execution error' not in message
    )  # says what is wrong


def test_no_saved_model(tmp_path):
    for path in (tmp_path, tmp_path / 'nowhere'):
        with pytest.raises(OSError, match=str(path)):
            predictor.from_saved_model(str(path))


def test_a_sparse_input_is_refused(save):
    def build():
        x = tf.sparse.placeholder(tf.float32, [None, 2], 'x')
        return {'x': x}, {'y': tf.sparse.reduce_sum(x)}

    with pytest.raises(ValueError, match="'x' is sparse or composite"):
        predictor.from_saved_model(save(build))


# Checksums, and which exports go.


def test_a_checksum_tells_a_changed_byte(save, tmp_path):
    export_dir = save(linear, path=tmp_path / 'exports' / '2')
    save(linear, path=tmp_path / 'exports' / '1')
    exports.write_checksum(export_dir)
    exports.write_checksum(os.fsencode(export_dir))  # as Estimator.export_saved_model returns it
    with open(os.path.join(export_dir, exports.CHECKSUM)) as file:
        checksum, name = file.read().split()
    with open(os.path.join(export_dir, name), 'rb') as file:
        content = file.read()
    assert name == 'saved_model.pb' and checksum == hashlib.sha256(content).hexdigest()
    assert os.listdir(os.path.join(export_dir, 'assets.extra')) == ['sha256sum']
    assert exports.is_complete(export_dir) and exports.latest(tmp_path / 'exports') == export_dir
    with predictor.from_saved_model(export_dir) as predict_fn:
        assert predict_fn({'x': [[1]]})['y'].tolist() == [[4]]
    assert content.count(b'Add') and exports.read(export_dir).meta_graphs
    with open(os.path.join(export_dir, name), 'wb') as file:
        file.write(content.replace(b'Mul', b'Sub'))  # loads, and answers wrong
    assert not exports.is_complete(export_dir)
    assert exports.latest(tmp_path / 'exports') == str(tmp_path / 'exports' / '1')
    with pytest.raises(
        exports.DamagedExport, match=f'{export_dir}.* is damaged: its checksum is not that of'
    ) as error:
        predictor.from_saved_model(export_dir)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    'keep, left',
    [(1, ['9']), (2, ['30', '9']), (3, ['30', '20', '9']), (9, ['30', '20', '10', '9'])],
)
def test_remove_old(save, tmp_path, keep, left):
    """The export in question stays, whatever its number; what is no complete export isn't touched."""
    for name in ('9', '10', '20', '30'):
        save(linear, path=tmp_path / 'exports' / name)
    (tmp_path / 'exports' / '40').mkdir()
    (tmp_path / 'exports' / 'notes').write_text('')
    removed = exports.remove_old(tmp_path / 'exports' / '9', keep)
    assert [os.path.basename(path) for path in exports.complete(tmp_path / 'exports')] == left
    assert [os.path.basename(path) for path in removed] == [
        n for n in ('30', '20', '10') if n not in left
    ]
    assert sorted(os.listdir(tmp_path / 'exports')) == sorted([*left, '40', 'notes'])


@pytest.mark.parametrize('path', ['exports//30', 'exports/30/', './exports/30', b'exports/30'])
def test_remove_old_keeps_the_export_however_its_path_is_written(save, tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('20', '30'):
        save(linear, path=f'exports/{name}')
    with pytest.raises(ValueError, match='expected to keep 1 or more exports, got 0'):
        exports.remove_old(path, 0)
    assert [os.path.basename(removed) for removed in exports.remove_old(path, 1)] == ['20']
    assert os.listdir('exports') == ['30'] and exports.is_complete(path)
    monkeypatch.chdir('exports')
    assert exports.remove_old('30', 1) == []


def test_paths_of_each_kind(save, tmp_path):
    export_dir = save(linear, path=tmp_path / 'exports' / '7')
    for path in (
        tmp_path / 'exports',
        str(tmp_path / 'exports'),
        os.fsencode(tmp_path / 'exports'),
    ):
        assert exports.latest(path) == export_dir and list(exports.complete(path)) == [export_dir]
    for path in (tmp_path / 'nothing', tmp_path):
        with pytest.raises(FileNotFoundError, match=str(path)):
            exports.latest(path)
    with pytest.raises(FileNotFoundError, match='no directory'):
        list(exports.complete(tmp_path / 'nothing'))
    with pytest.raises(FileNotFoundError, match='saved_model.pb is missing'):
        exports.read(tmp_path)
    assert not exports.is_complete(tmp_path / 'exports') and not exports.is_complete(tmp_path / '8')
