"""The stages of corpus work: each a pure function over an Arrow record batch, run by `training.shards.run_stage`."""
