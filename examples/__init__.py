"""What goes beyond the posts' scripts. Run in the repository's root: python -m beyond.train_and_evaluate, and so on."""
