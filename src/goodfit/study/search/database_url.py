"""The URL of a PostgreSQL database, whose password is shown nowhere."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import sqlalchemy
from sqlalchemy.exc import ArgumentError

from goodfit.core.errors import UsageError

SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
SECRETS = ("password", "sslpassword")  # in the query of a URL


@dataclasses.dataclass(frozen=True, repr=False)
class DatabaseUrl:
    """The URL of a PostgreSQL database. As text it has no password."""

    url: sqlalchemy.URL

    @staticmethod
    def read(text: str) -> DatabaseUrl:
        """Read a URL as users type it.

        Raises:
            UsageError: it is none of PostgreSQL. The sentence has no password.
        """
        received = "what is no URL"
        with contextlib.suppress(ArgumentError, ValueError):
            url = DatabaseUrl(sqlalchemy.make_url(text))
            if url.url.drivername in SCHEMES and url.url.database:
                return url
            received = f'"{url}"'
        raise UsageError(
            f"Expected --storage as postgresql://USER@HOST/DATABASE, received {received}: without --storage, the journal in the folder of"
            " the search serves all workers that share its disk."
        )

    def __str__(self) -> str:
        name = "postgresql" if self.url.drivername in SCHEMES else self.url.drivername
        query = {key: value for key, value in self.url.query.items() if key not in SECRETS}
        return sqlalchemy.URL.create(
            name, self.url.username, None, self.url.host, self.url.port, self.url.database, query
        ).render_as_string()

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of psycopg's `connect`. What is not in the URL, libpq takes from PGPASSWORD and its like, or ~/.pgpass."""
        query = {key: value if isinstance(value, str) else ",".join(value) for key, value in self.url.query.items()}
        return {**self.url.translate_connect_args(username="user", database="dbname"), **query}

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the environment by which another process connects by the text: the password, if there is one."""
        return {"PGPASSWORD": password} if (password := self.arguments.get("password")) is not None else {}
