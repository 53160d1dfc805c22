"""Energies, forces and stresses of CHGNet: from a server that a test runs, so that VASP's start takes no second."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from emulated_inputs import Cell
from numpy.typing import NDArray

SOCKET = "energies.socket"


@dataclass
class Evaluation:
    """Energy (eV), forces (n, 3) in eV/Å, stress (3, 3) = dE/dε/V in eV/Å³, moments μB."""

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]
    moments: list[float]


def evaluate(cell: Cell) -> Evaluation:
    """Ask the server of this test run; without one load CHGNet here."""
    asked = {"lattice": cell.lattice.tolist(), "symbols": cell.symbols, "frac": cell.frac.tolist()}
    place = Path(os.environ.get("VASP_EMULATOR", "/nonexistent")) / SOCKET
    answer = _ask(place, asked) if place.exists() else Model().evaluate(asked)
    return Evaluation(
        answer["energy"], np.array(answer["forces"]), np.array(answer["stress"]), [float(m) for m in answer["moments"]]
    )


def _ask(place: Path, asked: dict[str, Any]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(place.resolve()))  # a socket's path may have 107 characters
        connection.sendall(json.dumps(asked).encode() + b"\n")
        with connection.makefile() as answer:
            return dict(json.loads(answer.readline()))


class Model:
    """CHGNet, loaded once."""

    def __init__(self) -> None:
        from chgnet.model import CHGNet

        self._model = CHGNet.load(use_device="cpu", verbose=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch complains of CHGNet once, here and not in the middle of a test
            self.evaluate({"lattice": (4.0 * np.eye(3)).tolist(), "symbols": ["Na"], "frac": [[0.0, 0.0, 0.0]]})

    def evaluate(self, asked: dict[str, Any]) -> dict[str, Any]:
        """CHGNet's prediction in plain numbers."""
        from pymatgen.core import Lattice, Structure

        structure = Structure(Lattice(asked["lattice"]), asked["symbols"], asked["frac"])
        found = self._model.predict_structure(structure, task="efsm")
        return {
            "energy": float(found["e"]) * len(structure),
            "forces": np.asarray(found["f"], float).tolist(),
            "stress": (np.asarray(found["s"], float) / 160.21766208).tolist(),  # GPa
            "moments": np.asarray(found["m"], float).ravel().tolist(),
        }


class EnergyServer:
    """Answers emulators in other processes from a thread of this one, inside a ``with`` block.

    Args:
        folder: the folder that ``VASP_EMULATOR`` names; short, for the path of a socket may have 107 characters.
    """

    def __init__(self, folder: Path) -> None:
        model, lock = Model(), threading.Lock()

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                asked = json.loads(self.rfile.readline())
                with lock:
                    answer = model.evaluate(asked)
                self.wfile.write(json.dumps(answer).encode() + b"\n")

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

        self._server = Server(str(folder / SOCKET), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> EnergyServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
