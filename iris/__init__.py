"""A canned Estimator that takes `tf.train.Example`s, and the ways to use its export. Run in the repository's root."""
