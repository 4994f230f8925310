"""From inside a container: everything that a hostile worker would try first is refused."""

from __future__ import annotations

import pytest
from stand_in import wait, write_job

from hpo.launchers import Mount

# What is tried, and a shell command that succeeds only if the worker gets away with it.
ATTEMPTS = {
    "write to the root": "touch /x",
    "write to the system's programs": "touch /usr/bin/x",
    "write to /etc": "touch /etc/x",
    "write to the data": "touch /rml/data/x",
    "change the data": "echo x > /rml/data/image",
    "delete the data": "rm -f /rml/data/image",
    "mount something": "mount -t tmpfs none /tmp",
    "make the root writable": "mount -o remount,rw /",
    "make a device": "mknod ./device c 1 3",
    "change its user": "chown 1234:1234 ./out",
    "leave by chroot": "chroot /tmp true",
    "read the machine's shadow file": "cat /etc/shadow",
    "find Docker's socket": "ls /var/run/docker.sock /run/docker.sock",
    "see the driver's environment": "env | grep RML_SECRET",
    "see a network": "grep -v -e lo: -e '|' /proc/net/dev",
    "find a route": "grep -v Iface /proc/net/route | grep .",
    "have a capability": "grep ^Cap /proc/self/status | grep -v 0000000000000000",
    "gain a privilege": "grep ^NoNewPrivs /proc/self/status | grep -v 1",
}
ALLOWED = {
    "write its run folder": "touch ./fine",
    "write the study's cache": "touch /rml/cache/fine",
    "write /tmp": "touch /tmp/fine",
    "read the data": "grep -q pixels /rml/data/image",
}


def script() -> str:
    lines = ["touch out"]
    for number, attempt in enumerate([*ATTEMPTS.values(), *ALLOWED.values()]):
        lines.append(f"if ( {attempt} ) >/dev/null 2>&1; then echo {number} yes; "
                     f"else echo {number} no; fi")  # fmt: skip
    return "\n".join(lines)


@pytest.mark.parametrize("kind", [pytest.param("docker", marks=pytest.mark.docker), "singularity"])
def test_a_worker_is_refused_what_it_must_not_do(kind, make_launcher, tmp_path, monkeypatch):
    monkeypatch.setenv("RML_SECRET", "password")
    mount = Mount(name="data", path=tmp_path / "data")
    mount.path.mkdir(mode=0o777)
    mount.path.chmod(0o777)
    (mount.path / "image").write_text("pixels")
    (mount.path / "image").chmod(0o666)
    launcher = make_launcher(kind, mounts=[mount], cache=tmp_path / "cache")
    handle = launcher.start(write_job(tmp_path / "run", script()))
    assert wait(handle) == 0, handle.log_tail()
    answers = [line.split()[1] == "yes" for line in handle.log_tail(100).splitlines()]
    outcome = dict(zip([*ATTEMPTS, *ALLOWED], answers, strict=True))
    report = "\n".join(f"  {'done' if ok else 'refused':8} {what}" for what, ok in outcome.items())
    assert [what for what in ATTEMPTS if outcome[what]] == [], report
    assert [what for what in ALLOWED if not outcome[what]] == [], report
    assert (mount.path / "image").read_text() == "pixels"
    (tmp_path / "report.txt").write_text(report)
