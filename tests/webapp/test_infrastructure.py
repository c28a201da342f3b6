"""The parts that replace the embedded ones, as real servers here; a test skips where its own is missing."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import connection

from tests.webapp.test_broker import run_a_task
from training import storage
from webapp import backup
from webapp.embedded.postgres import SERVER_USER, socket_folder
from webapp.settings import _storage

PATIENCE = 120  # seconds
JUDGE_AND_LOCK = """
import django
django.setup()
import threading, uuid
from django.db import connection
from django.utils import timezone
from annotation import services
from annotation.models import Comparison, Judgement, Project, User
from training.services.preparing import _alone

project = Project.objects.get()
errors = []

def judge(person):
    try:
        for _ in range(12):
            now = timezone.now()
            lease = services.next_lease(project=project, user=person, now=now)
            services.submit_judgement(
                lease_id=lease.pk, annotator=person, client_id=uuid.uuid4(), choice=0, strength=2, now=now)
        assert len(list(Comparison.objects.order_by("pk").iterator(chunk_size=5))) == 96
    except Exception as error:
        errors.append(repr(error))
    finally:
        connection.close()

def at_once(function, *arguments):
    threads = [threading.Thread(target=function, args=[each]) for each in arguments]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

alone = []
def lock(run):
    with _alone(run) as mine:
        alone.append(mine)

at_once(judge, *User.objects.filter(role="annotator").order_by("pk"))
for _ in range(3):
    with _alone(7) as mine:
        alone.append(mine)
        at_once(lock, 7)
        at_once(lock, 8)
print(Judgement.objects.count(), alone, errors)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def pgbouncer(data_dir: Path) -> Iterator[int]:
    """PgBouncer in transaction mode with two connections to the tests' Postgres; its port."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    folder = data_dir / "pgbouncer"
    folder.mkdir(exist_ok=True)
    port, ini, log = free_port(), folder / "pgbouncer.ini", folder / "log"
    (folder / "users").write_text('"tiebreak" ""\n')
    lines = [
        "[databases]",
        f"* = host={socket_folder(data_dir)} user=tiebreak",
        "[pgbouncer]",
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =",
        f"auth_type = trust\nauth_file = {folder / 'users'}",
        "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 100",
    ]
    if os.getuid() == 0:  # which it refuses to be
        lines.append(f"user = {SERVER_USER}")
        shutil.chown(folder, pwd.getpwnam(SERVER_USER).pw_uid)
    ini.write_text("\n".join(lines) + "\n")
    with log.open("wb") as output:
        process = subprocess.Popen([program, str(ini)], stdout=output, stderr=output)
    try:
        wait_for_port(port, process, log)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.mark.django_db(transaction=True)
def test_pgbouncer_in_transaction_mode(pgbouncer: int) -> None:
    """Eight people judge at once over two connections; nobody else's lock, cursor or statement is met."""
    from annotation import services
    from tests.annotation.factories import make_project, make_user, text_groups

    manager = make_user("manager")
    project = make_project(by=manager)
    services.add_comparisons(project=project, groups=text_groups(96))
    for _ in range(8):
        services.add_member(project=project, username=make_user().username, role="annotator", by=manager)
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "webapp.settings",
        "SECRET_KEY": "only-for-this-test-" * 2,
        "DATABASE_URL": f"postgres://tiebreak@127.0.0.1:{pgbouncer}/{connection.settings_dict['NAME']}",
        "DATABASE_POOLED": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", JUDGE_AND_LOCK],
        cwd=django_settings.BASE_DIR,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout == f"96 {[True, False, True] * 3} []\n", done.stderr


@pytest.fixture
def rabbitmq(tmp_path: Path) -> Iterator[str]:
    program = shutil.which("rabbitmq-server", path=f"{os.environ['PATH']}:/usr/sbin:/usr/lib/rabbitmq/bin")
    if program is None:
        pytest.skip("rabbitmq-server is not installed")
    port, folder, log = free_port(), tmp_path / "rabbitmq", tmp_path / "rabbitmq.log"
    folder.mkdir()
    if os.getuid() == 0:  # Debian's program becomes this user
        for each in (folder, *folder.parents):
            if each == Path("/tmp"):
                break
            each.chmod(0o755)
        shutil.chown(folder, "rabbitmq")
    own = {
        "RABBITMQ_NODENAME": f"tiebreak{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "ERL_EPMD_PORT": str(free_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program], env=os.environ | own, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_for_port(port, process, log)
        yield f"amqp://guest:guest@127.0.0.1:{port}//"
    finally:
        node = folder / "pid"  # as root, Debian's program starts it in a session of its own
        if node.exists():
            os.kill(int(node.read_text()), signal.SIGTERM)
        else:
            process.terminate()
        process.wait(PATIENCE)
        subprocess.run(["epmd", "-kill"], env=os.environ | own, capture_output=True, check=False)


@pytest.mark.slow
def test_task_goes_through_rabbitmq(rabbitmq: str, tmp_path: Path) -> None:
    run_a_task(rabbitmq, tmp_path, "solo")


@pytest.fixture
def bucket(settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An S3 server, and the product's storage on it as STORAGE_URL says."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    import boto3

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"aws_access_key_id": "key", "aws_secret_access_key": "se/cret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", **options).create_bucket(Bucket="tiebreak")
    url = f"s3://key:se%2Fcret@tiebreak/site?endpoint=http://{host}:{port}&region=us-east-1"
    settings.STORAGES = {**settings.STORAGES, "default": _storage(url)}
    yield
    server.stop()


def test_storage_on_s3(bucket: None, tmp_path: Path, settings) -> None:
    """Stored once under its hash, read back, unpacked, listed, deleted; a missing file is named."""
    settings.WORK_DIR = tmp_path / "work"
    source = tmp_path / "result"
    source.mkdir()
    (source / "weights.safetensors").write_bytes(b"\0\1" * 400_000)
    stored = storage.put_zip(source, folder="checkpoints")
    assert storage.put_zip(source, folder="checkpoints") == stored
    assert default_storage.size(stored.key) == stored.size
    storage.unpack(stored.key, sha256=stored.sha256, target=tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / "weights.safetensors").read_bytes() == b"\0\1" * 400_000
    default_storage.save("media/a/b.png", ContentFile(b"picture"))
    assert list(backup.walk_storage()) == [stored.key, "media/a/b.png"]
    storage.delete(stored.key)
    assert list(backup.walk_storage()) == ["media/a/b.png"]
    with pytest.raises(storage.StorageError, match="is not in the storage"), storage.local_copy(stored.key):
        pass


def test_a_file_of_a_zip_on_s3(
    bucket: None, tmp_path: Path, settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 MB no more is fetched than the list of names and the file that is read."""
    settings.WORK_DIR = tmp_path / "work"
    (source := tmp_path / "result" / "media").mkdir(parents=True)
    for number in range(4):
        (source / f"{number}.png").write_bytes(bytes([number]) * 10_000_000)
    (source / "small.png").write_bytes(b"picture")
    stored = storage.put_zip(source.parent, folder="checkpoints")
    fetched = []
    read = storage._Ranges.readinto
    monkeypatch.setattr(
        storage._Ranges, "readinto", lambda *given: fetched.append(read(*given)) or fetched[-1]
    )
    with storage.open_zip(stored.key) as archive:
        assert archive.read("media/small.png") == b"picture"
        assert sum(fetched) <= 4 * storage.RANGE
        assert archive.read("media/2.png") == b"\2" * 10_000_000
        with pytest.raises(KeyError):
            archive.read("media/9.png")
    assert sum(fetched) < 10_000_000 + 8 * storage.RANGE
    storage.delete(stored.key)
    with pytest.raises(storage.StorageError, match="is not in the storage"), storage.open_zip(stored.key):
        pass
