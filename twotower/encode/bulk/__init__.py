"""Embedding of whole collections into Parquet files, resumable shard by shard."""
