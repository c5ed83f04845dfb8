"""Data that is streamed: read shard by shard, from this machine or from a URL, through a cache of limited size."""
