"""Prints tensorflow_2_15_names.txt: the public names of tf.estimator, as TensorFlow 2.15.1 has them.

    python3.11 -m venv venv && venv/bin/pip install tensorflow==2.15.1
    venv/bin/python tests/data/write_tensorflow_2_15_names.py > tests/data/tensorflow_2_15_names.txt

Of tensorflow.python.estimator, which isn't public, it prints the modules that code imports.
"""

from __future__ import annotations

import pkgutil
import types

from tensorflow.python import estimator


def public_names(prefix: str, module: types.ModuleType) -> list[str]:
    """The names of a module of TensorFlow's API and of the modules below it, in order."""
    names = []
    for name in sorted(dir(module)):
        if not name.startswith('_'):
            member, full_name = getattr(module, name), f'{prefix}.{name}'
            names += [
                full_name,
                *(public_names(full_name, member) if isinstance(member, types.ModuleType) else []),
            ]
    return names


for prefix in (
    'compat.v1.estimator',
    'compat.v1.keras.estimator',
    'compat.v2.estimator',
    'compat.v2.keras.estimator',
    'estimator',
    'keras.estimator',
):
    print(
        '\n'.join(
            public_names(f'tensorflow.{prefix}', pkgutil.resolve_name(f'tensorflow:{prefix}'))
        )
    )
for module in pkgutil.walk_packages(estimator.__path__, 'tensorflow.python.estimator.'):
    print(module.name)
