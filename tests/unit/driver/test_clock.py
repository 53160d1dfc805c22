"""File times ahead of the clock end now, in their order; all others stay."""

from __future__ import annotations

import os
import time

from sluice.driver.clock import pull_back_future_times


def test_order_is_kept_and_the_rest_is_left_alone(tmp_path):
    now = time.time()
    times = {"a/old": -7200.0, "a/recent": -1.0, "a/second": 3700.0, "b/first": 3600.0, "b/third": 3800.0}
    for name, offset in times.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
        os.utime(path, (now + offset, now + offset))
    os.utime(tmp_path / "b", (now + 4000, now + 4000))
    before = {name: (tmp_path / name).stat().st_mtime for name in ("a/old", "a/recent")}
    assert pull_back_future_times(tmp_path) == 4
    assert {name: (tmp_path / name).stat().st_mtime for name in before} == before
    found = [(tmp_path / name).stat().st_mtime for name in ("a/recent", "b/first", "a/second", "b/third", "b")]
    assert found == sorted(found) and len(set(found)) == 5 and found[-1] <= time.time()
    assert pull_back_future_times(tmp_path) == 0


def test_clocks_that_are_a_little_apart_are_left_alone(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    os.utime(path, (time.time() + 1.0, time.time() + 1.0))
    before = path.stat().st_mtime
    assert pull_back_future_times(tmp_path) == 0 and path.stat().st_mtime == before


def test_symbolic_links_are_not_followed(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.write_text("")
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    os.utime(outside, (time.time() + 3600, time.time() + 3600))
    before = outside.stat().st_mtime
    assert pull_back_future_times(inside) == 0 and outside.stat().st_mtime == before
