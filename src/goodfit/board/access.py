"""Who may read and change what: the Host header, pages of other origins, the token of a board that others reach, and that of each page."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection, Mapping
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from goodfit.serve.access import host_name

PAGE_TOKEN_HEADER = "x-board-token"
COOKIE = "goodfit-board"
OPEN_PATHS = ("/", "/login")  # that need no cookie, as the scripts of the page: they say nothing of the runs
SAFE_METHODS = ("GET", "HEAD")
HEADERS = {  # of every answer
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Access:
    """Lets requests through to an app.

    Refused are those for a Host that is not among `hosts`, as a page elsewhere sends them whose name was made to lead here (DNS rebinding;
    None lets all in); those that pages of other origins send, but for links to the page or a report that are followed; with a `token`,
    those without the cookie that `/login` gives for it; and those that change something without the token that this process has put
    into its page.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, token: str = "") -> None:
        self.app, self.hosts, self.token = app, hosts, token
        self.page_token, self.session = secrets.token_urlsafe(32), secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self.check(scope["method"], scope["path"], Headers(scope=scope))):
            status, sentence = refusal
            await JSONResponse({"error": sentence}, status, HEADERS)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """The status and sentence by which a request is refused; None where it may pass."""
        is_safe, host = method in SAFE_METHODS, headers.get("host", "")
        if self.hosts is not None and host_name(host) not in self.hosts:
            return 403, f"Expected the Host header to be one of {', '.join(self.hosts)}, received another."
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        is_page = path == "/" or path.startswith("/report/")  # what a link from elsewhere may open, such as one from a report's sandbox
        is_link = is_safe and is_page and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if (origin is not None and origin.partition("://")[2] != host) or (site not in ("none", "same-origin") and not is_link):
            return 403, "Expected a request of the board's own page, received one of another origin."
        is_open = path in OPEN_PATHS or path.startswith("/static/")
        if self.token and not is_open and not is_equal(read_cookie(headers.get("cookie", "")), self.session):
            return 401, "Expected the token of this board: open its first page and enter it."
        if not is_safe and not is_equal(headers.get(PAGE_TOKEN_HEADER, ""), self.page_token):
            return 403, "Expected the token of the board's page, received another: load the page again."
        return None


def read_cookie(text: str) -> str:
    """The board's cookie in a Cookie header; empty where there is none."""
    try:
        found = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def is_equal(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in a time that tells nothing about them."""
    return hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode(errors="surrogatepass"))
