"""The commands of `fusescope` by subject; `training.cli` puts them together."""
