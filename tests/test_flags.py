"""Hostile values of the scripts' flags: the right answer or one clear error."""

import importlib
import os
import re
import shutil

import pytest

import export
import fast_predict
import predict
import serve
import train
from beyond import export as beyond_export

COUNTS = [
    ('train', '--steps'),
    ('train', '--hidden-units'),
    ('train', '--seed'),
    ('predict', '--examples'),
    ('fast_predict', '--examples'),
    ('fast_predict', '--batch'),
    ('serve', '--examples'),
    ('compare', '--examples'),
    ('iris.train', '--steps'),
    ('iris.train', '--seed'),
    ('iris.remote', '--port'),
    ('iris.remote', '--timeout'),
    ('beyond.serve', '--examples'),
    ('beyond.train_and_evaluate', '--steps'),
    ('beyond.train_and_evaluate', '--hidden-units'),
    ('beyond.train_and_evaluate', '--seed'),
    ('beyond.cluster', '--steps'),
    ('beyond.scale', '--examples'),
]
PATHS = [
    ('train', '--model-dir'),
    ('export', '--model-dir'),
    ('export', '--export-dir'),
    ('predict', '--model-dir'),
    ('fast_predict', '--model-dir'),
    ('serve', '--export-dir'),
    ('compare', '--model-dir'),
    ('compare', '--export-dir'),
    ('compare', '--json'),
    ('iris.train', '--model-dir'),
    ('iris.train', '--export-dir'),
    ('iris.fast', '--model-dir'),
    ('iris.serve', '--export-dir'),
    ('iris.session', '--export-dir'),
    ('beyond.export', '--model-dir'),
    ('beyond.export', '--export-dir'),
    ('beyond.export', '--checkpoint'),
    ('beyond.serve', '--export-dir'),
    ('beyond.train_and_evaluate', '--model-dir'),
    ('beyond.train_and_evaluate', '--export-dir'),
    ('beyond.cluster', '--model-dir'),
    ('beyond.scale', '--json'),
]
NO_TEXT = ['a\nb', 'a\rb', '\x1b[1m', os.fsdecode(b'\xff'), '\ud800']


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """The tests run in an empty directory, where what they leave behind is seen."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize('module, flag', COUNTS)
def test_numbers_that_are_none(module, flag, ends):
    values = ['', '1e', '0x10', 'nan', '²', '-', '1 2', '1' * 5000]
    if flag != '--seed':
        values += ['0', '-5', '99999999999999999999', '10' * 2000, str(2**63)]
        values += ['1e3', '1_000', ' 5', '+5'] if flag != '--timeout' else []  # which float() takes
    for value in values:
        assert re.search(
            f'argument {flag}: (expected|invalid int value)',
            ends(importlib.import_module(module), f'{flag}={value}'),
        )
    assert os.listdir() == []


@pytest.mark.parametrize(
    'seed',
    [
        '-5',
        '10' * 2000,
        *(
            pytest.param(seed, marks=pytest.mark.slow)
            for seed in (str(2**63), '99999999999999999999', '٣')
        ),
    ],
)
def test_any_seed_and_digits_of_any_script(seed):
    train.main(['--steps=٣', '--hidden-units=１', f'--seed={seed}'])
    assert os.path.exists('model/model.ckpt-3.index')


@pytest.mark.parametrize('module, flag', PATHS)
def test_paths_that_no_script_takes(module, flag, ends):
    module = importlib.import_module(module)
    patterns = [] if flag == '--json' else ['model[1]*', 'a\\b', '?']
    for value in [
        'x' * 300,
        'x' * 5000,
        '模' * 100,
        '/'.join(['x' * 200] * 20),
        *patterns,
        *NO_TEXT,
    ]:
        line = ends(module, f'{flag}={value}.png')
        assert re.search(
            r': (argument \S+: )?expected (a directory|a shorter path|a path without|text in UTF-8)',
            line,
        )
    if flag != '--checkpoint':  # of which no path is no checkpoint, as any other name
        assert 'expected a' in ends(module, f'{flag}=')
    assert os.listdir() == []


@pytest.mark.parametrize(
    'module, flag',
    [
        ('beyond.serve', '--remote'),
        ('beyond.serve', '--signature'),
        ('beyond.export', '--receiver'),
        ('iris.remote', '--host'),
        ('iris.remote', '--model'),
        ('compare', '--rows'),
        ('train', '--device'),
    ],
)
def test_names_that_are_no_text(module, flag, ends):
    for value in NO_TEXT:
        assert 'expected text in UTF-8 without control characters' in ends(
            importlib.import_module(module), f'{flag}={value}:1'
        )


@pytest.mark.parametrize(
    'name',
    [
        '模型',
        '-dash',
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ('\'"', '..', 'a b', '$HOME', '{0} %s', 'zwölf/drei', '~', '\u200d')
        ),
    ],
)
def test_directories_of_any_name(trained, name, capsys):
    """From a training to each way to predict."""
    os.mkdir('sub')
    os.chdir('sub')
    train.main([f'--model-dir={name}', '--steps=1'])
    shutil.copytree(trained, name, dirs_exist_ok=True)
    export.main([f'--model-dir={name}', f'--export-dir={name}'])
    beyond_export.main([f'--model-dir={name}', f'--export-dir={name}'])
    predict.main([f'--model-dir={name}', '--examples=1'])
    fast_predict.main([f'--model-dir={name}', '--examples=2'])
    serve.main([f'--export-dir={name}', '--examples=2'])
    assert capsys.readouterr().out.count('Average time') == 4
