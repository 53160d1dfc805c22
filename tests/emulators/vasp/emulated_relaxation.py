"""The geometry's way down: quasi-Newton steps in positions and cell, as far as ISIF lets them move."""

from __future__ import annotations

import numpy as np
from emulated_energies import Evaluation
from emulated_inputs import Cell
from numpy.typing import NDArray

MAX_STEP = 0.12  # Å
STIFFNESS = 25.0  # eV/Å², of the first guess


class Relaxation:
    """BFGS on the atoms' positions and, for ISIF = 3, on the cell (as in ASE's UnitCellFilter).

    Args:
        cell: where to start.
        isif: VASP's word for what moves: 3 cell and ions, otherwise ions.
    """

    def __init__(self, cell: Cell, isif: int) -> None:
        self.start, self.moves_cell = cell, isif == 3
        self._n = len(cell.symbols)
        self._deform = np.eye(3)
        self._positions = cell.frac @ cell.lattice  # in the undeformed cell
        self._hessian: NDArray[np.float64] | None = None
        self._last: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    @property
    def cell(self) -> Cell:
        """The geometry now."""
        frac = self._positions @ np.linalg.inv(self.start.lattice)
        return Cell(self.start.lattice @ self._deform.T, self.start.symbols, frac)

    def _downhill(self, found: Evaluation) -> NDArray[np.float64]:
        forces = found.forces @ self._deform
        if not self.moves_cell:
            return forces.ravel()
        volume = abs(np.linalg.det(self.cell.lattice))
        strain = -volume * found.stress @ np.linalg.inv(self._deform).T / self._n
        return np.concatenate([forces.ravel(), strain.ravel()])

    def _variables(self) -> NDArray[np.float64]:
        where = self._positions.ravel()
        return np.concatenate([where, self._n * self._deform.ravel()]) if self.moves_cell else where

    def step(self, found: Evaluation) -> None:
        """Move on from the geometry that was evaluated."""
        x, down = self._variables(), self._downhill(found)
        if self._hessian is None:
            self._hessian = STIFFNESS * np.eye(len(x))
        elif self._last is not None:
            dx, dg = x - self._last[0], self._last[1] - down
            if np.dot(dx, dg) > 1e-12:
                hx = self._hessian @ dx
                self._hessian += np.outer(dg, dg) / np.dot(dx, dg) - np.outer(hx, hx) / np.dot(dx, hx)
        self._last = x, down
        move = np.linalg.solve(self._hessian, down)
        move *= min(1.0, MAX_STEP / max(np.abs(move).max(), 1e-12))
        x = x + move
        self._positions = x[: 3 * self._n].reshape(self._n, 3)
        if self.moves_cell:
            self._deform = x[3 * self._n :].reshape(3, 3) / self._n
