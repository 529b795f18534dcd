"""The report on a dataset and its experiments: one web page, which needs no server and no network."""
