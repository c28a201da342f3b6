"""Answers from a server that speaks OpenAI's completions protocol, such as vLLM.

The server holds the base; adapters are put on it as they change. They are known by their content: when the
policy has moved since its last answers, its adapter is written into a folder that the server reads too and
loaded there under a new name (``/v1/load_lora_adapter``), and an old one is unloaded. A policy whose adapter
is switched off is the base itself.

Where the server is, is for whoever operates the trainer to say, never for a run's config:

``TIEBREAK_GENERATION_URL``       its address up to ``/v1``
``TIEBREAK_GENERATION_KEY``       what it wants as bearer token, if anything
``TIEBREAK_GENERATION_ADAPTERS``  the folder for adapters, if the run directory is not visible to the server
``TIEBREAK_GENERATION_TIMEOUT``   seconds for one request, 600 if unset

Log-probabilities are recorded as the server tells them. They are those of the sampling temperature where it
says so (vLLM: ``--logprobs-mode processed_logprobs``); training computes its own, and logs how far they are
apart as ``answers/logprob_gap``.
"""

import hashlib
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import torch

from training.tuning.errors import BadInput
from training.tuning.processes import rank
from training.tuning.text.generation import Answer
from training.tuning.text.loading import is_adapter
from training.tuning.text.models import TextModel
from training.tuning.text.saving import is_peft, save_model

URL = "TIEBREAK_GENERATION_URL"
KEY = "TIEBREAK_GENERATION_KEY"
ADAPTERS = "TIEBREAK_GENERATION_ADAPTERS"
TIMEOUT = "TIEBREAK_GENERATION_TIMEOUT"
CONNECT_SECONDS = 10.0
AT_ONCE = 64  # requests in flight; the server batches them
KEPT = 2  # adapters: the policy's, and the start's where that is an adapter too
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each new attempt
PASSING = {408, 425, 429, 500, 502, 503, 504}  # what may be gone when asked again


class ServerFailed(Exception):
    """The generation server cannot be reached, or refused what it should not."""


class GenerationServer:
    """A connection. ``folder`` is where adapters are written; ``sleep`` waits between attempts."""

    def __init__(
        self,
        url: str,
        *,
        folder: Path,
        key: str | None = None,
        timeout: float = 600.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput(f'"{url}" is no address; give one like http://127.0.0.1:8000/v1', field=URL)
        self.url = url.rstrip("/")
        self.folder = folder
        self._sleep = sleep
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=AT_ONCE),
            follow_redirects=False,
        )
        self._loaded: list[str] = []
        self.base = self._base_name()

    def sample(
        self,
        model: TextModel,
        prompts: Sequence[Sequence[int]],
        *,
        keys: Sequence[str],
        max_new_tokens: int,
        temperature: float,
        top_p: float,
    ) -> list[Answer]:
        """The interface of ``sample_answers``: one answer for each key, k in a row to each prompt.

        A key seeds its answer on the server, whose random numbers are not those of this process.
        """
        name = self._serve(model)
        copies = len(keys) // len(prompts)

        def ask(number: int) -> Answer:
            body = {
                "model": name,
                "prompt": list(prompts[number // copies]),
                "max_tokens": max_new_tokens,
                "temperature": temperature,
                "top_p": top_p,
                "seed": seed_of(keys[number]),
                "stop_token_ids": model.end_ids,
                "logprobs": 0,
                "return_token_ids": True,
                "return_tokens_as_token_ids": True,
            }
            return self._read(self._post("/completions", body), model)

        with ThreadPoolExecutor(max_workers=min(AT_ONCE, len(keys))) as threads:
            return list(threads.map(ask, range(len(keys))))

    def _read(self, reply: Any, model: TextModel) -> Answer:
        """The answer of a reply, whose tokens must be those of this process's tokenizer."""
        try:
            choice = reply["choices"][0]
            found = choice.get("logprobs") or {}
            ids = choice.get("token_ids") or [_named_id(token) for token in found["tokens"]]
            logprobs = [float(value) for value in found["token_logprobs"]]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ServerFailed(
                f"{self.url} gives no token ids and log-probabilities with its completions; vLLM does "
                "(return_token_ids)"
            ) from None
        ended = bool(ids) and ids[-1] in model.end_ids
        if not ids or len(ids) != len(logprobs):
            raise ServerFailed(f"{self.url} gave {len(ids)} tokens with {len(logprobs)} log-probabilities")
        # Characters that were cut in the middle are shown in different ways.
        own = model.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True).split("�")[0]
        if not choice["text"].strip().startswith(own.strip()):
            raise ServerFailed(
                f"{self.url} has another tokenizer than {model.base}: it reads its tokens as "
                f"{choice['text'][:60]!r}, and here they are {own[:60]!r}"
            )
        return Answer(ids=ids, logprobs=logprobs, ended=ended)

    # Adapters

    def _serve(self, model: TextModel) -> str:
        """The name under which the server has the model as it is now; its adapter is loaded if it is new."""
        if not is_peft(model.model):
            if not is_adapter(model.base):
                return self.base
            folder = Path(model.base).resolve()
            name = f"tiebreak-{_digest([(folder / 'adapter_model.safetensors').read_bytes()])}"
            return self._load(name, lambda _: None, folder)
        if not model.model.get_model_status().enabled:
            return self.base
        name = f"tiebreak-{weights_digest(model)}-{rank()}"  # each process loads and unloads its own
        return self._load(name, lambda folder: _write_adapter(model, folder), self.folder / name)

    def _load(self, name: str, write: Callable[[Path], None], folder: Path) -> str:
        if name in self._loaded:
            return name
        if name not in {str(one["id"]) for one in self._models()}:  # another attempt may have loaded it
            write(folder)
            self._post("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        self._loaded.append(name)
        while len(self._loaded) > KEPT:
            old = self._loaded.pop(0)
            self._post("/unload_lora_adapter", {"lora_name": old})
            shutil.rmtree(self.folder / old, ignore_errors=True)
        return name

    def _base_name(self) -> str:
        """The name of the model that is no adapter."""
        for one in self._models():
            if not one.get("parent"):
                return str(one["id"])
        raise ServerFailed(f"{self.url}/models lists no model")

    def _models(self) -> list[dict[str, Any]]:
        listed = self._ask("GET", "/models", None)
        return list(listed.get("data", [])) if isinstance(listed, dict) else []

    # Requests

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """The reply as JSON (or text). What may pass is tried again; the last failure is ServerFailed."""
        for wait in (*WAITS, None):
            try:
                reply = self._client.request(method, self.url + path, json=body)
            except httpx.HTTPError as error:
                why = f"{type(error).__name__}: {error}"
            else:
                if reply.is_success:
                    is_json = "json" in reply.headers.get("content-type", "")
                    return reply.json() if is_json else reply.text
                why = f"HTTP {reply.status_code}: {reply.text[:300]}"
                if reply.status_code not in PASSING:
                    break
            if wait is not None:
                self._sleep(wait * (0.5 + random.random()))
        raise ServerFailed(f"{self.url}{path}: {why}{_advice(path)}")


def open_server(run_folder: Path) -> GenerationServer:
    """The server that the environment names. BadInput if it names none."""
    url = os.environ.get(URL)
    if not url:
        raise BadInput(
            f'"generation": "server" needs the server\'s address in the environment variable {URL}, which '
            "whoever runs the trainer sets",
            field="config.generation",
        )
    return GenerationServer(
        url,
        folder=Path(os.environ.get(ADAPTERS) or run_folder / "served").resolve(),
        key=os.environ.get(KEY),
        timeout=float(os.environ.get(TIMEOUT) or 600),
    )


def seed_of(key: str) -> int:
    """31 bits that the key determines."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


@torch.no_grad()
def weights_digest(model: TextModel) -> str:
    """What tells one state of an adapter from another."""
    trained = sorted((name, value) for name, value in model.model.named_parameters() if "lora_" in name)
    return _digest([part for name, value in trained for part in (name, _bytes(value))])


def _bytes(value: torch.Tensor) -> bytes:
    return value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()


def _digest(parts: Sequence[str | bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()[:20]


def _write_adapter(model: TextModel, folder: Path) -> None:
    save_model(model.model, model.tokenizer, folder, precision="fp32")


def _named_id(token: str) -> int:
    """``token_id:123``, as servers name tokens when asked to."""
    prefix, _, number = token.partition(":")
    if prefix != "token_id":
        raise ValueError(token)
    return int(number)


def _advice(path: str) -> str:
    if path == "/load_lora_adapter":
        return (
            "; the server must take adapters at run time (vLLM: --enable-lora, --max-lora-rank, "
            f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True) and see the folder they are in ({ADAPTERS})"
        )
    return ""
