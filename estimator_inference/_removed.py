"""What TensorFlow 2.16 removed, and Estimator and programs with it need; tf1.py gives it its names.

This module stands in for tensorflow.python.distribute.estimator_training, through which RunConfig
and train_and_evaluate have a tf.distribute strategy run the cluster of TF_CONFIG, and for modules
of tensorflow.python.tpu, whose names Estimator imports, but needs on TPUs alone.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import tensorflow.compat.v1 as tf


def init_run_config(config: Any, tf_config: dict[str, Any]) -> None:
    """Completes a RunConfig that may have a tf.distribute strategy, given TF_CONFIG's contents."""
    for name in ('train_distribute', 'eval_distribute'):
        strategy = getattr(config._experimental_distribute, name, None)
        if strategy and getattr(config, f'_{name}'):
            raise ValueError(f'either {name} or experimental_distribute.{name} can be set')
        if strategy:
            setattr(config, f'_{name}', strategy)
    if getattr(config._experimental_distribute, 'remote_cluster', None):
        raise ValueError(
            'experimental_distribute.remote_cluster needs TensorFlow 2.15; instead, start the '
            'program on each machine of the cluster, with TF_CONFIG set'
        )
    cluster = tf_config.get('cluster', {})
    if cluster and config._train_distribute and 'master' not in cluster:
        config._init_distributed_setting_from_environment_var({})
        config._cluster_spec = tf.train.ClusterSpec(cluster)
        config._distribute_coordinator_mode = 'independent_worker'
    else:
        config._init_distributed_setting_from_environment_var(tf_config)
        config._maybe_overwrite_session_config_for_distributed_training()
        config._distribute_coordinator_mode = None


def should_run_distribute_coordinator(config: Any) -> bool:
    return getattr(config, '_distribute_coordinator_mode', None) == 'independent_worker'


def train_and_evaluate(
    estimator: Any, train_spec: Any, eval_spec: Any, executor_class: type
) -> None:
    """What tf.estimator.train_and_evaluate does under a strategy: this process's task.

    TensorFlow still has the coordinator, which starts the server and configures the strategy.
    """
    from tensorflow.python.distribute import distribute_coordinator, distribute_coordinator_context

    def of_this_task(**strategy: Any) -> Any:
        task = distribute_coordinator_context.get_current_worker_context()
        is_evaluator = task.task_type == 'evaluator'  # which is no part of the cluster
        cluster = {} if is_evaluator else task.cluster_spec.as_dict()
        chiefs, workers = (len(cluster.get(job, [])) for job in ('chief', 'worker'))
        first = chiefs if task.task_type == 'worker' else 0
        copied = copy.deepcopy(estimator)
        for name, value in strategy.items():
            setattr(copied, f'_{name}_distribution', value)
            setattr(copied._config, f'_{name}_distribute', value)
        vars(copied._config).update(
            _distribute_coordinator_mode=None,
            _service=None,
            _cluster_spec=tf.train.ClusterSpec(cluster),
            _task_type=task.task_type,
            _task_id=task.task_id,
            _is_chief=task.is_chief,
            _master=task.master_target,
            _evaluation_master=task.master_target,
            _num_ps_replicas=len(cluster.get('ps', [])),
            _num_worker_replicas=chiefs + workers,
            # Of a strategy within one graph, the one worker that trains has no id.
            _global_id_in_cluster=None if is_evaluator else first + (task.task_id or 0),
        )
        return copied

    def train(strategy: Any) -> None:
        of_this_task(train=strategy).train(
            train_spec.input_fn, list(train_spec.hooks), max_steps=train_spec.max_steps
        )

    def evaluate(strategy: Any) -> None:
        executor_class(
            of_this_task(eval=strategy), train_spec, eval_spec
        )._start_continuous_evaluation()

    config = estimator.config
    distribute_coordinator.run_distribute_coordinator(
        train,
        config.train_distribute,
        evaluate,
        config.eval_distribute,
        mode=config._distribute_coordinator_mode,
        session_config=config.session_config,
    )


def estimator_train(*args: object) -> None:
    raise ValueError(
        'train and evaluate do not run a tf.distribute strategy over the cluster of TF_CONFIG: '
        'call tf.estimator.train_and_evaluate'
    )


estimator_evaluate = estimator_train


class CheckpointInputPipelineHook(tf.train.SessionRunHook):  # type: ignore[misc]
    """Saves how far training has read its input, as often as the model, and goes on from there.

    It reads and writes the files of TensorFlow 2.15's hook, in the directory of the model.
    """

    def __init__(self, estimator: Any, external_state_policy: str | None = None) -> None:
        policies = tf.data.experimental.ExternalStatePolicy
        self._policy = policies[(external_state_policy or 'fail').upper()]
        config, name = estimator.config, 'input'
        if config.num_worker_replicas > 1:
            name += f'_{config.task_type}_{config.task_id}'
        self._latest_filename = f'checkpoint_{name}'
        # Not the base class: Estimator would take this hook for the one that saves the model.
        self._hook = tf.train.CheckpointSaverHook(
            estimator.model_dir,
            config.save_checkpoints_secs,
            config.save_checkpoints_steps,
            checkpoint_basename=f'{name}.ckpt',
        )
        self.after_run, self.end = self._hook.after_run, self._hook.end

    def begin(self) -> None:
        from tensorflow.python.data.ops import iterator_ops

        iterators = tf.get_collection('iterators')
        saveables = [iterator_ops._IteratorSaveable(it, it.name, self._policy) for it in iterators]
        saver = self._hook._saver = tf.train.Saver(saveables, sharded=True)
        saver.save = functools.partial(saver.save, latest_filename=self._latest_filename)
        self._hook.begin()

    def after_create_session(self, session: Any, coord: Any) -> None:
        # Not restored here, since another hook may initialize the iterators after this.
        self._is_new = True

    def before_run(self, run_context: Any) -> Any:
        if self._is_new:
            self._is_new = False
            hook, session = self._hook, run_context.session
            checkpoint = tf.train.latest_checkpoint(hook._checkpoint_dir, self._latest_filename)
            if checkpoint:
                hook._saver.restore(session, checkpoint)
            else:
                step = session.run(hook._global_step_tensor)
                hook._save(session, step)
                hook._timer.update_last_triggered_step(step)
        return self._hook.before_run(run_context)


AsyncCheckpointSaverHook = tf.train.CheckpointSaverHook  # which saves in the thread that trains


class TpuParameters:
    """The parameters of an optimizer for embeddings on TPUs."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError(
            'TensorFlow 2.15 is the last with embeddings on TPUs for Estimator'
        )


AdagradParameters = AdamParameters = FtrlParameters = MomentumParameters = TpuParameters
ProximalAdagradParameters = RMSPropParameters = StochasticGradientDescentParameters = TpuParameters
