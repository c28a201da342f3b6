"""A small OpenID Connect provider on the loopback: discovery, authorization, token and user info."""

import base64
import hashlib
import json
import secrets
import threading
import time
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT, SECRET = "tiebreak", "a secret between the two"


class Silent(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


class Provider:
    """Who is signed in there is `subject`; everything that was asked is checked as a real one does."""

    def __init__(self) -> None:
        self.server: WSGIServer = make_server("127.0.0.1", 0, self.answer, handler_class=Silent)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.subject = {"sub": "42", "preferred_username": "olga", "email": "olga@example.org"}
        self.audience = CLIENT
        self.grants: dict[str, dict[str, str]] = {}
        self.tokens: set[str] = set()
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> "Provider":
        self.thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def authorize(self, address: str) -> str:
        """What the provider's page does when the person agrees: the address to which it sends them back."""
        assert address.startswith(f"{self.issuer}/authorize?")
        asked = dict(parse_qsl(urlsplit(address).query))
        assert (asked["client_id"], asked["response_type"]) == (CLIENT, "code")
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.grants[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def answer(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
        status, reply = self._reply(environ, {k: v[0] for k, v in parse_qs(body).items()})
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(reply).encode()]

    def _reply(self, environ: dict[str, Any], form: dict[str, str]) -> tuple[str, dict[str, Any]]:
        path = environ["PATH_INFO"]
        if path == "/.well-known/openid-configuration":
            places = {"authorization": "authorize", "token": "token", "userinfo": "userinfo"}
            ends = {f"{name}_endpoint": f"{self.issuer}/{place}" for name, place in places.items()}
            return "200 OK", {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys", **ends}
        if path == "/token":
            return self._token(form)
        if path == "/userinfo" and environ.get("HTTP_AUTHORIZATION", "")[7:] in self.tokens:
            return "200 OK", self.subject
        return "401 Unauthorized", {"error": "invalid_token"}

    def _token(self, form: dict[str, str]) -> tuple[str, dict[str, Any]]:
        asked = self.grants.pop(form.get("code", ""), None)
        challenge = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        proved = base64.urlsafe_b64encode(challenge).rstrip(b"=").decode()
        if asked is None or form.get("client_secret") != SECRET or proved != asked["code_challenge"]:
            return "400 Bad Request", {"error": "invalid_grant"}
        token, now = secrets.token_urlsafe(16), int(time.time())
        self.tokens.add(token)
        claims = self.subject | {"iss": self.issuer, "aud": self.audience, "iat": now, "exp": now + 60}
        claims |= {"nonce": asked["nonce"]} if "nonce" in asked else {}
        signed = jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": "1"})
        return "200 OK", {"access_token": token, "token_type": "Bearer", "id_token": signed}
