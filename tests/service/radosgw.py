"""A real S3 server from Debian's packages: Ceph's radosgw over one monitor and one in-memory disk, in a folder.

Owns starting and ending it. Leaves no process and no file; the installed packages stay.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.s3_servers import S3Server

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")
START_SECONDS = 60.0

CONFIG = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
run dir = {folder}
admin socket = {folder}/$cluster-$name.$pid.asok
log file = {folder}/$name.log
pid file =
mon cluster log file = {folder}/cluster.log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mon pg warn min per osd = 0
mon max pg per osd = 1000
osd pool default pg autoscale mode = off
ms bind msgr1 = false
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
osd max object name len = 256
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{rgw_port}
rgw thread pool size = 32
# Its own default, secure, needs cephx.
ms mon client mode = crc
"""


@contextmanager
def radosgw_server() -> Iterator[S3Server]:
    """The server on free ports. Skips where it cannot be installed or started; in CI that is a failure."""
    _install()
    folder = Path(tempfile.mkdtemp(prefix="xmas-radosgw-"))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield _start(folder, processes)
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGKILL)  # in memory: there is nothing to save
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _install() -> None:
    if all(shutil.which(name) for name in ("radosgw", "ceph-mon", "ceph-osd", "radosgw-admin")):
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        _cannot("radosgw is not installed, and apt-get as root is not at hand")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", "-qq", *command], env=environment, capture_output=True, check=False)
        if done.returncode:
            _cannot(f"apt-get {command[0]} failed: {done.stderr.decode(errors='replace')[-500:]}")


def _cannot(why: str) -> None:
    assert os.environ.get("CI") != "true", f"CI must be able to start a real S3 server: {why}"
    pytest.skip(why)


def _start(folder: Path, processes: list[subprocess.Popen[bytes]]) -> S3Server:
    mon_port, rgw_port = _free_port(), _free_port()
    config = folder / "ceph.conf"
    config.write_text(CONFIG.format(fsid=uuid.uuid4(), folder=folder, mon_port=mon_port, rgw_port=rgw_port))

    def run(*command: str) -> str:
        return subprocess.run(
            [*command, "-c", str(config)], capture_output=True, text=True, check=True, timeout=START_SECONDS
        ).stdout

    def daemon(*command: str) -> None:
        with (folder / f"{command[0]}.out").open("wb") as log:
            processes.append(
                subprocess.Popen([*command, "-f", "-c", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    (folder / "osd").mkdir()
    run("ceph-mon", "--mkfs", "-i", "a")
    daemon("ceph-mon", "-i", "a")
    osd_id = str(uuid.uuid4())
    run("ceph", "osd", "new", osd_id)
    run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_id)
    daemon("ceph-osd", "-i", "0")
    daemon("radosgw", "-n", "client.rgw")
    endpoint = f"http://127.0.0.1:{rgw_port}"
    _wait_for(endpoint, processes, folder)
    made = json.loads(run("radosgw-admin", "user", "create", "--uid", "tested", "--display-name", "tested"))["keys"][0]
    keys = {"AWS_ACCESS_KEY_ID": made["access_key"], "AWS_SECRET_ACCESS_KEY": made["secret_key"]}
    return S3Server(endpoint, keys, checksums="when_required")


def _wait_for(endpoint: str, processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        ended = [process.args for process in processes if process.poll() is not None]
        logs = "".join(path.read_text(errors="replace")[-800:] for path in folder.glob("*.out"))
        assert not ended, f"{ended} ended: {logs}"
        try:
            with urlopen(endpoint, timeout=5):
                return
        except (URLError, OSError):
            assert time.monotonic() < end, f"radosgw did not answer in {START_SECONDS} s: {logs}"
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
