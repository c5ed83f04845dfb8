"""The experiments of the claims, by topic; claims.toml has what each claim says, and the rule of its verdict."""
