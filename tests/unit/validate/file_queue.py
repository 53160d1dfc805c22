"""A queue that does what jobflow-remote's does with a flow: jobs as JSON, each run by another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from jobflow import JobStore
from maggma.stores import JSONStore
from monty.json import MontyEncoder

WORKER = """
import sys
from monty.serialization import dumpfn, loadfn
job, store = loadfn(sys.argv[1])
store.connect()
job.run(store=store)
store.close()
"""


def make_store(path: Path) -> JobStore:
    data = JSONStore(str(path.with_name("data.json")), read_only=False)
    return JobStore(JSONStore(str(path), read_only=False), additional_stores={"data": data})


def open_store(path: Path) -> JobStore:
    store = make_store(path)
    store.connect()
    return store


class FileQueue:
    """Does what jobflow-remote does with a flow, without its database: jobs as JSON, each run by another process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.sent: list[str] = []
        self.ended: dict[str, str] = {}
        self.refuse = False

    def states(self, job_ids):
        for job_id in self.sent:  # a look is as good as a moment to work in
            if job_id not in self.ended and not self.refuse:
                path = self.folder / f"{job_id}.json"
                # A folder of its own, as jobflow-remote has it: VASP's jobs unpack whatever lies where they run.
                place = self.folder / f"run-{job_id}"
                place.mkdir()
                done = subprocess.run(
                    [sys.executable, "-W", "ignore", "-c", WORKER, str(path)],
                    cwd=place,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                self.ended[job_id] = "COMPLETED" if done.returncode == 0 else "REMOTE_ERROR"
                (self.folder / "log").write_text(done.stderr)
                break
        return {job_id: self.ended.get(job_id, "READY") for job_id in self.sent if job_id in job_ids}

    def send(self, flow):
        assert not set(self.sent) & set(flow.job_uuids), "sent twice"
        for job, _ in flow.iterflow():
            store = make_store(self.folder / "store.json")
            (self.folder / f"{job.uuid}.json").write_text(json.dumps([job, store], cls=MontyEncoder))
            self.sent.append(job.uuid)

    def document(self, job_id):
        if not (self.folder / "store.json").exists():
            return None
        store = open_store(self.folder / "store.json")
        try:
            return store.query_one({"uuid": job_id}, load=True)
        finally:
            store.close()
