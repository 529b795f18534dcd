"""Identification: applying trained models to a folder of recordings, in shards that many workers share."""
