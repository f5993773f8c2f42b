"""What goes beyond the posts' scripts. Run as python -m examples.train_and_evaluate."""
