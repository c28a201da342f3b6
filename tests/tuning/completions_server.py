"""A small server with vLLM's protocol: completions by token ids, and adapters that come at run time."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass
class Served:
    """What the server has, and what it was asked. ``failures`` are status codes to answer with first."""

    base: Path
    url: str = ""
    models: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    token_ids: bool = True
    shift: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(self.base)
        self.models["base"] = AutoModelForCausalLM.from_pretrained(self.base).eval()

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        with self.lock:
            self.asked.append((path, body))
            if self.failures:
                return self.failures.pop(0), {"error": "not now"}
            if path == "/v1/models":
                names = [{"id": name, "parent": "base" if name != "base" else None} for name in self.models]
                return 200, {"data": names}
            if path == "/v1/load_lora_adapter":
                if body["lora_name"] in self.models:
                    return 400, {"error": "already loaded"}
                fresh = deepcopy(self.models["base"])
                self.models[body["lora_name"]] = PeftModel.from_pretrained(fresh, body["lora_path"]).eval()
                return 200, f"loaded {body['lora_name']}"
            if path == "/v1/unload_lora_adapter":
                del self.models[body["lora_name"]]
                return 200, "unloaded"
            return self.complete(body) if path == "/v1/completions" else (404, {"error": path})

    @torch.no_grad()
    def complete(self, body: Any) -> tuple[int, Any]:
        """Token by token, every one from a whole forward pass; the text without the end token."""
        if body["model"] not in self.models:
            return 404, {"error": f"no model {body['model']}"}
        model, ids, logprobs = self.models[body["model"]], list(body["prompt"]), []
        generator = torch.Generator().manual_seed(body["seed"])
        start = len(ids)
        while len(ids) - start < body["max_tokens"]:
            logits = model(torch.tensor([ids])).logits[0, -1]
            logp = (logits / (body["temperature"] or 1)).log_softmax(0)
            token = int(
                logp.argmax()
                if not body["temperature"]
                else torch.multinomial(logp.exp(), 1, generator=generator)
            )
            ids.append(token)
            logprobs.append(float(logp[token]))
            if token in body["stop_token_ids"]:
                break
        written = [(token + self.shift) % model.config.vocab_size for token in ids[start:]]
        choice: dict[str, Any] = {
            "text": self.tokenizer.decode(ids[start:], skip_special_tokens=True),
            "logprobs": {"token_logprobs": logprobs, "tokens": [f"token_id:{token}" for token in written]},
        }
        return 200, {"choices": [choice | ({"token_ids": written} if self.token_ids else {})]}


@contextmanager
def serving(base: Path, **options: Any) -> Iterator[Served]:
    """The server, on a free port of this machine, while the block runs."""
    served = Served(base, **options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply(*served.answer(self.path, None))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(*served.answer(self.path, body))

        def reply(self, status: int, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
