"""Prints tensorflow_2_15_names.txt: the public names of TensorFlow 2.15.1, a line for each module.

    python3.11 -m venv venv && venv/bin/pip install tensorflow==2.15.1
    venv/bin/python tests/data/write_tensorflow_2_15_names.py > tests/data/tensorflow_2_15_names.txt

tf.compat.v2 has the names of tf and isn't printed. tf.tsl, which TensorFlow 2.15 alone had, is left
out. Modules that aren't public, but that code with Estimator imports, are printed without names.
"""

from __future__ import annotations

import pkgutil
import re
import types

import tensorflow
from tensorflow.python import estimator

NOT_PUBLIC = 'compiler core dtensor include python security tools tsl'.split()
API = r'tensorflow\._api\.|tensorflow\.compat|keras\.api|tensorflow_estimator\.'
TPU = 'async_checkpoint error_handling tpu_config tpu_context tpu_estimator util'.split()


def write(prefix: str, module: types.ModuleType) -> None:
    names = [name for name in sorted(dir(module)) if not name.startswith('_')]
    if prefix == 'tensorflow':
        names = [name for name in names if name not in NOT_PUBLIC]
    print(f'{prefix}:', *names)
    for name in names:
        member, api = getattr(module, name), f'{prefix}.{name}'
        below_compat = api == 'tensorflow.compat.v2' or api.count('.compat.v') == 2
        # A lazily loaded module has a name of its own.
        is_module = isinstance(member, types.ModuleType) and re.match(API, member.__name__)
        if is_module and not below_compat:
            write(api, member)


write('tensorflow', tensorflow)
for module in pkgutil.walk_packages(estimator.__path__, 'tensorflow.python.estimator.'):
    print(f'{module.name}:')
for name in TPU:
    print(f'tensorflow.python.tpu.{name}:')
