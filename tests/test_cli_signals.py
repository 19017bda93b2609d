"""How the command line ends when it is told to, and when nobody listens: signals, closed streams, places to write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.cli import main
from tests.cases import mostly_slow

PLAIN = ["--model", "cp", "--rank", "3"]
ENDLESS = ["--solver", "als", "--max-iter", "100000000"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("data.npy", np.random.default_rng(0).standard_normal((9, 8, 7)))
    return tmp_path


@pytest.fixture
def begun() -> Iterator[Any]:
    """`tensorchain decompose` in a process of its own, which does not outlive the test."""
    processes = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        processes.append(begin_process(*arguments))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def begin_process(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tensorchain.cli", "decompose", "data.npy", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(tc.__file__).parents[1])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(what: Any, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("number", mostly_slow([signal.SIGINT, signal.SIGTERM]))
def test_a_signal_saves_the_best_so_far(folder: Path, begun: Any, number: int) -> None:
    process = begun(*PLAIN, *ENDLESS, "--starts", "100000", "--checkpoint", "run.ckpt", "--out", "fit.npz")
    wait_for(lambda: Path("run.ckpt").exists() or process.poll() is not None)
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "")
    assert "INTERRUPTED" in out
    fit = tc.load("fit.npz")
    assert fit.reason is tc.StopReason.INTERRUPTED
    assert fit.error < 1.0
    assert sorted(os.listdir()) == ["data.npy", "fit.npz", "run.ckpt"]


def children_of(process: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == process and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found through /proc")
@pytest.mark.slow
def test_no_worker_outlives_a_signal(folder: Path, begun: Any) -> None:
    pytest.importorskip("joblib")
    process = begun(*PLAIN, "--solver", "lm", "--starts", "500000", "--jobs", "2", "--out", "fit.npz")
    # The tracker of resources and two workers.
    wait_for(lambda: len(children_of(process.pid)) >= 3 or process.poll() is not None)
    workers = children_of(process.pid)
    assert len(workers) >= 3
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130

    def gone() -> bool:
        return not any(Path(f"/proc/{worker}/stat").exists() for worker in workers)

    wait_for(gone, 10.0)


@pytest.mark.slow
@pytest.mark.parametrize("redirected", ["2>/dev/full", ">&-", ">&- 2>&-"])
def test_closed_streams_cost_nothing(folder: Path, redirected: str) -> None:
    options = "--model cp --rank 2 --solver als --max-iter 3 --out fit.npz"
    code = f"{sys.executable} -m tensorchain.cli decompose data.npy {options} "
    environment = {**os.environ, "PYTHONPATH": str(Path(tc.__file__).parents[1])}
    done = subprocess.run(["bash", "-c", code + redirected], env=environment, capture_output=True, check=False)
    assert done.returncode == 0
    assert tc.load("fit.npz").iterations > 0
    if "&- 2>&-" in redirected:
        # Nor do they hide a mistake.
        code = code.replace("data.npy", "absent.npy")
        bad = subprocess.run(["bash", "-c", code + redirected], env=environment, capture_output=True, check=False)
        assert bad.returncode == 2


@pytest.mark.parametrize("json", mostly_slow(["--json", ""]))
def test_a_reader_that_has_gone(folder: Path, json: str) -> None:
    options = f"{json} --model cp --rank 2 --solver als --max-iter 3 --out"
    program = f"{sys.executable} -m tensorchain.cli"
    environment = {**os.environ, "PYTHONPATH": str(Path(tc.__file__).parents[1])}

    def ended(command: str) -> tuple[int, str]:
        # The reader is gone before anything is written.
        code = f"{{ sleep 0.2; {command}; echo $? >status; }} | true"
        done = subprocess.run(["bash", "-c", code], env=environment, capture_output=True, text=True, check=False)
        return int(Path("status").read_text()), done.stderr

    status, said = ended(f"{program} decompose data.npy {options} fit.npz")
    assert (status, said) == (0, "tensorchain: nobody read the report to its end; fit.npz is saved\n")
    assert tc.load("fit.npz").iterations > 0
    if json:
        return
    assert ended(f"{program} show fit.npz") == (0, "")
    # A failure stays one.
    far = options.replace("--max-iter 3", "--max-iter 300 --max-error 1e-9")
    assert ended(f"{program} decompose data.npy {far} far.npz")[0] == 1
    assert ended(f"{program} show absent.npz")[0] == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full device is needed")
def test_a_report_that_cannot_be_written(folder: Path) -> None:
    options = "--model cp --rank 2 --solver als --max-iter 3 --out fit.npz"
    code = f"{sys.executable} -m tensorchain.cli decompose data.npy {options} >/dev/full"
    environment = {**os.environ, "PYTHONPATH": str(Path(tc.__file__).parents[1])}
    done = subprocess.run(["bash", "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "stdout" in done.stderr
    assert done.stderr.count("\n") == 1
    assert tc.load("fit.npz").iterations > 0


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("n" * 260 + ".npz", "too long"),
        ("/proc/fit.npz", "/proc/fit.npz"),
        ("sub.npz", "is a folder"),
        ("nowhere/fit.npz", "no such folder"),
        ("loop.npz", "loop.npz"),
    ],
)
@pytest.mark.parametrize("option", ["--out", "--checkpoint"])
def test_places_are_tried_before_the_work(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, out: str, says: str, option: str
) -> None:
    Path("sub.npz").mkdir()
    Path("loop.npz").symlink_to("loop.npz")
    monkeypatch.setattr("tensorchain.cli.decompose.decompose", lambda *a, **k: pytest.fail("the work began"))
    before = sorted(os.listdir())
    rest = [] if option == "--out" else ["--out", "good.npz"]
    assert main(["decompose", "data.npy", *PLAIN, option, out, *rest]) == 2
    assert says in capsys.readouterr().err
    assert sorted(os.listdir()) == before


def test_the_longest_names_and_links(folder: Path) -> None:
    name = "n" * 251 + ".npz"
    assert main(["decompose", "data.npy", *PLAIN, "--solver", "als", "--max-iter", "2", "--out", name]) == 0
    Path("far").mkdir()
    Path("link.npz").symlink_to("far/real.npz")
    assert main(["decompose", "data.npy", *PLAIN, "--solver", "als", "--max-iter", "2", "--out", "link.npz"]) == 0
    assert Path("link.npz").is_symlink()
    assert tc.load("far/real.npz").error == pytest.approx(tc.load(name).error)


def test_show_says_what_it_found(folder: Path, capsys: Any) -> None:
    assert (
        main(
            [
                "decompose",
                "data.npy",
                *PLAIN,
                "--solver",
                "als",
                "--max-iter",
                "2",
                "--checkpoint",
                "c.npz",
                "--out",
                "fit.npz",
            ]
        )
        == 0
    )
    tc.load("fit.npz").model.save("model.npz")
    capsys.readouterr()
    for name, says in (("fit.npz", "a fit"), ("model.npz", "a model, saved without a fit")):
        assert main(["show", name]) == 0
        assert says in capsys.readouterr().out
    assert main(["show", "c.npz"]) == 2
    assert "checkpoint" in capsys.readouterr().err
