"""A PostgreSQL server for tests: a cluster of its own in a temporary folder, behind a Unix socket."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "pg-" + secrets.token_hex(8)


def find_programs() -> Path | None:
    """Return the folder of initdb and pg_ctl; None if PostgreSQL is not installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    found = shutil.which("initdb")
    folders = [*debian[::-1], *([Path(found).parent] if found else [])]
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@contextmanager
def postgres_server(programs: Path) -> Iterator[str]:
    """Yield the URL of a server, with a password, and stop the server in the end."""
    # A Unix socket has a short path, and the server refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    account: dict[str, str | int] = {}
    if os.geteuid() == 0:
        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        user = names.get("postgres") or names["nobody"]
        account = {"user": user.pw_uid, "group": user.pw_gid}
        os.chown(folder, user.pw_uid, user.pw_gid)

    def call(program: str, *flags: str) -> None:
        with (folder / "out").open("w+b") as out:
            command = [str(programs / program), "-D", str(folder / "data"), *flags]
            done = subprocess.run(command, stdout=out, stderr=out, cwd=folder, **account)  # type: ignore[call-overload]
            out.seek(0)
            assert done.returncode == 0, out.read().decode()

    try:
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        flags = ["--username=d2l", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256", "--no-sync"]
        call("initdb", *flags, "--encoding=UTF8", "--locale=C")
        options = f"-F -k {folder} -c listen_addresses='' -c unix_socket_permissions=0777"
        call("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", options)
        try:
            yield f"postgresql+psycopg://d2l:{PASSWORD}@/postgres?host={folder}"
        finally:
            call("pg_ctl", "stop", "-w", "-m", "immediate")
    finally:
        shutil.rmtree(folder)
