"""Stands before the dashboard's pages: who has the token may look, and change nothing unasked."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

READING = ("GET", "HEAD")


class AccessGate:
    """A WSGI application around another."""

    def __init__(
        self, app: WSGIApplication, *, token: str | None, port: int, writable: bool
    ) -> None:
        """Let through what has the token, as a cookie or in the address, and only reads.

        Args:
            app: what is guarded.
            token: None asks nobody for one.
            port: in the cookie's name, since browsers send those of all ports of a host.
            writable: let through what changes something, too.
        """
        self._app = app
        self._token = token
        self._cookie = f"rml_dashboard_{port}"
        self._writable = writable

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or pass it on."""
        if not self._writable and environ["REQUEST_METHOD"] not in READING:
            return _answer(start_response, "403 Forbidden", "read-only; see --writable")
        query = parse_qsl(environ.get("QUERY_STRING", ""))
        given = dict(query).get("token")
        path = environ.get("PATH_INFO") or "/"
        if self._token is None or self._has_cookie(environ):
            return self._app(environ, start_response)
        if given is None or not self._is_token(given):
            reason = "open the address with its token that `rml-study dashboard` has printed"
            return _answer(start_response, "403 Forbidden", reason)
        if path.startswith("/api/"):  # a script, which keeps no cookies
            return self._app(environ, start_response)
        # Without the token, which would stay in the history and go to others as the referrer.
        rest = urlencode([(key, value) for key, value in query if key != "token"])
        cookie = f"{self._cookie}={self._token}; HttpOnly; SameSite=Lax; Path=/"
        place = "/" + quote(path.lstrip("/"), encoding="latin-1") + (f"?{rest}" if rest else "")
        return _answer(
            start_response, "303 See Other", "", ("Location", place), ("Set-Cookie", cookie)
        )

    def _has_cookie(self, environ: WSGIEnvironment) -> bool:
        try:
            found = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(self._cookie)
        except CookieError:
            return False
        return found is not None and self._is_token(found.value)

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), (self._token or "").encode())


def _answer(
    start_response: StartResponse, status: str, reason: str, *headers: tuple[str, str]
) -> list[bytes]:
    body = json.dumps({"reason": reason}).encode()  # as the pages show the API's own refusals
    size = ("Content-Length", str(len(body)))
    start_response(status, [("Content-Type", "application/json"), size, *headers])
    return [body]
