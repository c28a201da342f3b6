"""The embedded broker under concurrency and with damaged files, and Redis in its place."""

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import Empty

import pytest
from kombu import Connection

import webapp.embedded.broker
from webapp.embedded.broker import broker_folder, broker_url, clear_messages

PRODUCERS, CONSUMERS, MESSAGES = 3, 3, 200


def produce(url: str, producer: int) -> None:
    with Connection(url) as connection, connection.SimpleQueue("race") as queue:
        for number in range(MESSAGES):
            queue.put([producer, number])


def consume(url: str, file: Path, stop: Event) -> None:
    with Connection(url) as connection, connection.SimpleQueue("race") as queue, file.open("w") as out:
        while True:
            stopping = stop.is_set()  # read before the queue: nothing is put after it is set
            try:
                message = queue.get(timeout=0.2)
            except Empty:
                if stopping:
                    return
                continue
            message.ack()
            out.write(json.dumps(message.payload) + "\n")


def test_race(tmp_path: Path) -> None:
    """Several producers and consumers in processes of their own: nothing lost, nothing doubled."""
    url = broker_url(tmp_path / "broker")
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    files = [tmp_path / f"consumer-{number}" for number in range(CONSUMERS)]
    consumers = [context.Process(target=consume, args=(url, file, stop)) for file in files]
    producers = [context.Process(target=produce, args=(url, number)) for number in range(PRODUCERS)]
    for process in consumers + producers:
        process.start()
    for process in producers:
        process.join(60)
    stop.set()
    for process in consumers:
        process.join(60)
    assert [process.exitcode for process in consumers + producers] == [0] * (CONSUMERS + PRODUCERS)
    received = Counter(tuple(json.loads(line)) for file in files for line in file.read_text().splitlines())
    assert received == Counter(
        (producer, number) for producer in range(PRODUCERS) for number in range(MESSAGES)
    )
    left = [
        file for file in (tmp_path / "broker").rglob("*") if file.is_file() and "bindings" not in file.parts
    ]
    assert left == []


def test_order_and_size(tmp_path: Path) -> None:
    with Connection(broker_url(tmp_path)) as connection, connection.SimpleQueue("q") as queue:
        for number in range(3):
            queue.put(number)
        assert queue.qsize() == 3
        assert [queue.get(timeout=1).payload for _ in range(3)] == [0, 1, 2]


def test_what_was_not_acknowledged_comes_back(tmp_path: Path) -> None:
    url = broker_url(tmp_path)
    with Connection(url) as connection, connection.SimpleQueue("q") as queue:
        queue.put("kept")
        queue.get(timeout=1)
    with Connection(url) as connection, connection.SimpleQueue("q") as queue:
        assert queue.get(timeout=1).payload == "kept"


PROPERTIES = {
    "delivery_tag": "1",
    "delivery_info": {"exchange": "", "routing_key": "q"},
    "body_encoding": "base64",
}


def message(**changes: object) -> bytes:
    return json.dumps({"body": "ImdpdmVuIg==", "properties": PROPERTIES, **changes}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"body": "aGFsZi13cml0',
        b"\xff\xfe",
        b"[]",
        message(properties={}),
        message(properties={"delivery_tag": "1", "delivery_info": []}),
        message(body="!"),
        message(body=1),
        message(properties={**PROPERTIES, "body_encoding": "rot13"}),
    ],
)
def test_damaged_message_is_set_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with Connection(broker_url(tmp_path)) as connection, connection.SimpleQueue("q") as queue:
        (tmp_path / "queues" / "q.queue" / f"{0:020d}-{'0' * 32}.msg").write_bytes(content)
        queue.put("good")
        assert queue.get(timeout=1).payload == "good"
    assert [file.read_bytes() for file in (tmp_path / "damaged").iterdir()] == [content]
    assert "moved to damaged/" in caplog.text


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    with Connection(broker_url(tmp_path)) as connection, connection.SimpleQueue("q") as queue:
        foreign = tmp_path / "queues" / "q.queue" / ".DS_Store"
        foreign.write_bytes(b"not ours")
        queue.put("good")
        assert queue.qsize() == 1
        assert queue.get(timeout=1).payload == "good"
        assert foreign.exists()


def test_clearing(tmp_path: Path) -> None:
    with Connection(broker_url(tmp_path)) as connection, connection.SimpleQueue("q") as queue:
        queue.put("old")
        (tmp_path / "taken" / "left-by-a-killed-consumer").touch()
        assert clear_messages(tmp_path) == 1
        assert queue.qsize() == 0
        assert list((tmp_path / "taken").iterdir()) == []
        queue.put("new")
        assert queue.get(timeout=1).payload == "new"


def test_urls(tmp_path: Path) -> None:
    odd = tmp_path / "a; b%20c#d?"
    assert broker_folder(broker_url(odd)) == odd
    with Connection(broker_url(odd)) as connection, connection.SimpleQueue("q") as queue:
        queue.put(1)
        assert queue.get(timeout=1).payload == 1
    with pytest.raises(ValueError, match="absolute"):
        broker_folder("tiebreak+filesystem://relative/folder")
    assert webapp.embedded.broker.Transport.polling_interval == 0.05


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "redis-server did not start within 10 s"
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


def test_task_goes_through_redis(redis_url: str, tmp_path: Path) -> None:
    run_a_task(redis_url, tmp_path, "solo")


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_task_goes_through_the_folder(tmp_path: Path, pool: str) -> None:
    run_a_task(broker_url(tmp_path / "broker"), tmp_path, pool)


def run_a_task(url: str, folder: Path, pool: str) -> None:
    """The product's Celery application in a worker process takes what the product's settings sent."""
    own = {"DJANGO_SETTINGS_MODULE": "webapp.settings", "TIEBREAK_DATA": str(folder)}
    environment = os.environ | own | {"CELERY_BROKER_URL": url}
    command = [sys.executable, "-m", "celery", "-A", "webapp", "worker", "-Q", "light", "--pool", pool]
    command += ["--concurrency", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    answer = folder / "answer"
    send = f"from tests.webapp.file_tasks import write_file; write_file.delay({str(answer)!r}, 'done')"
    with (folder / "log").open("w") as log:
        worker = subprocess.Popen(
            [*command, "-I", "tests.webapp.file_tasks"], env=environment, stdout=log, stderr=log
        )
        try:
            subprocess.run([sys.executable, "-c", send], env=environment, check=True)
            deadline = time.monotonic() + 90
            while not answer.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert answer.exists(), (folder / "log").read_text()
            worker.terminate()
            assert worker.wait(60) == 0
        finally:
            worker.kill()
            worker.wait()
