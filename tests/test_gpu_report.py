"""What benchmarks/gpu_check.sh writes, from made-up measurements: no GPU is needed to see that."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

PEAKS = {"copy_bytes_per_s": 4.3e12, "bf16_flops": 7.9e14}
SHAPE = {"N": 65536, "K": 16384, "D": 256, "dtype": "float32"}
RESULTS = [
    SHAPE
    | {"name": "exact", "ms": 1.0, "wrong": 0.0, "graph": True, "goal_ms": 1.15, "flops": 5.5e14}
    | {"kernels_ms": {"finish_kernel": 0.05, "wgmma_kernel<8>": 0.71}},
    SHAPE | {"name": "torch addmm + argmin", "ms": 12.5, "wrong": 0.001, "graph": False},
    SHAPE | {"name": "torch cdist + argmin", "error": "OutOfMemoryError: no memory"},
]


def test_the_table_tells_ratios_goals_and_what_failed():
    from gpu_report import table

    lines = table(RESULTS, PEAKS).splitlines()[2:]
    assert "| 1.0000 | 1.00 | 0.000% | goal 1.15: met, 70% of the bf16 rate |" in lines[0]
    assert "| 12.5000 | 12.50 | 0.100% | no graph |" in lines[1]
    assert "no memory" in lines[2]
    slow = [RESULTS[0] | {"ms": 1.2}]
    assert "missed" in table(slow, PEAKS)
    # Without ours there is nothing to compare with.
    assert "| 12.5000 |  | 0.100% |" in table(RESULTS[1:], PEAKS)


def test_the_report_names_card_commit_steps_and_mismatches():
    from gpu_report import markdown

    report = {
        "card": {
            "name": "Card",
            "driver_version": "1",
            "compute_cap": "9.0",
            "clocks.max.sm": "1980 MHz",
            "power.limit": "700 W",
        },
        "date": "2026-01-01",
        "commit": "abc",
        "steps": {"build": "passed (3 s)", "racecheck": "failed (9 s)"},
        "exactness": {"random": {"rows": 10**8, "wrong": 0}, "hard": {"rows": 10, "wrong": 2}},
        "speed": {"peaks": PEAKS, "torch": "2", "results": RESULTS},
    }
    text = markdown(report)
    assert "commit abc" in text and "| racecheck | failed (9 s) |" in text
    assert "100,000,000 random rows against fp64: 0 differ." in text
    assert "10 hard rows against the CPU: 2 differ." in text
    assert "256 float32: wgmma_kernel<8> 0.7100, finish_kernel 0.0500" in text
    nothing_measured = markdown(report | {"exactness": None, "speed": None})
    assert "| build | passed (3 s) |" in nothing_measured
    cut_off = markdown(report | {"exactness": {"random": {"rows": 10**8, "wrong": 0}}})
    assert "0 differ." in cut_off and "the CPU" not in cut_off


def test_without_a_gpu_the_script_says_so(tmp_path):
    script = ROOT / "benchmarks" / "gpu_check.sh"
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))  # and no nvidia-smi
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run(["/bin/bash", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "this needs an NVIDIA GPU" in done.stderr
    done = subprocess.run(["/bin/bash", script, "--fast"], capture_output=True, text=True)
    assert done.returncode == 2 and "--quick" in done.stderr


NVIDIA_SMI = "#!/bin/bash\necho 'Made up, 580.1, 9.0, 1980 MHz, 700 W'\n"
# Stands for Python: runs the report alone; of the steps it tells how they search, and how they end.
PYTHON = f"""#!/bin/bash
case "$*" in
  *gpu_report*) exec {sys.executable} "$@" ;;
  *torch.cuda.is_available*) exit 0 ;;
  *build_ext*) rm -f unbuilt ;;
  *load_libraries*) [ -z "$NO_LIBRARY" ] && [ ! -e unbuilt ]; exit ;;
  *"-k wgmma"*) exit 3 ;;
  *"soft_assign_on_gpu.py -k"*) exit 124 ;;  # as timeout ends what lasts too long
  *) echo "searches by ${{VQGAN_FAST_CUDA_SEARCH-auto}}: $*" ;;
esac
"""


@pytest.fixture
def run_check(tmp_path):
    """gpu_check.sh in a folder of its own, on a machine that has nothing but what is made up."""
    (tmp_path / "benchmarks").mkdir()
    for name in ("gpu_check.sh", "gpu_report.py"):
        shutil.copy(ROOT / "benchmarks" / name, tmp_path / "benchmarks")
    (tmp_path / "bin").mkdir()
    for name, text in (("nvidia-smi", NVIDIA_SMI), ("python", PYTHON)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
        "CUDA_HOME": "/nowhere",
        "PYTHON": str(tmp_path / "bin" / "python"),
    }

    def run(*arguments, **more):
        command = ["/bin/bash", str(tmp_path / "benchmarks" / "gpu_check.sh"), *arguments]
        done = subprocess.run(command, env=environment | more, capture_output=True, text=True)
        (written,) = (tmp_path / "runs" / "gpu_check").glob("gpu_*.json")
        assert (tmp_path / "benchmarks" / "results" / written.name).is_file()
        log = (tmp_path / "runs" / "gpu_check" / "log").read_text()
        return done, json.loads(written.read_text()), log

    return run


def test_steps_go_on_behind_those_that_fail(run_check):
    done, report, log = run_check("--quick")
    assert done.returncode == 1
    steps = report["steps"]
    assert steps["build"].startswith("passed") and steps["search_mma"].startswith("passed")
    assert steps["search_wgmma"].startswith("failed")
    assert steps["soft_assign"].startswith("ended by its limit")
    assert steps["memcheck"].startswith("not found")
    assert steps["exactness"].startswith("passed") and "suite" not in steps
    # What may use wgmma does not, from then on.
    assert steps["search of the steps after"] == "mma"
    pytest = "-m pytest -v -rs -p no:cacheprovider -o faulthandler_timeout=60"
    assert f"searches by auto: {pytest} tests/cuda/test_search" in log
    assert "searches by mma: benchmarks/gpu_speed.py" in log
    assert report["card"]["name"] == "Made up"


def test_steps_that_are_named_add_to_what_was_found(run_check):
    run_check("--quick")
    done, report, log = run_check("search_mma", "speed")
    assert report["steps"]["exactness"].startswith("passed")  # of the first call
    assert log.count("== exactness") == 1 and log.count("== speed") == 2
    assert log.count("searches by mma: benchmarks/gpu_speed.py") == 2
    assert done.returncode == 0


def test_on_a_machine_that_has_nothing_named_steps_bring_what_they_need(run_check, tmp_path):
    (tmp_path / "unbuilt").touch()
    _, report, log = run_check("speed")
    steps = report["steps"]
    assert steps["build"].startswith("passed") and steps["search_mma"].startswith("passed")
    assert steps["search_wgmma"].startswith("failed") and "ops" not in steps
    assert "searches by mma: benchmarks/gpu_speed.py" in log


def test_what_was_found_is_copied_after_every_step(run_check, tmp_path):
    copies = tmp_path / "copies"
    run_check("--copy-to", str(copies), "speed")
    original = tmp_path / "runs" / "gpu_check"
    names = {path.name for path in original.iterdir()}
    assert {"log", "steps", "report", "gpu_Made_up.json", "gpu_Made_up.md"} <= names
    assert {path.name for path in copies.iterdir()} == names
    for name in names - {"log"}:  # its last line is written behind the last report
        assert (copies / name).read_text() == (original / name).read_text()


def test_tools_share_the_time_that_is_left(run_check, tmp_path):
    limits = tmp_path / "limits"
    told = tmp_path / "bin" / "timeout"
    told.write_text(f'#!/bin/bash\necho "$3 $*" >>{limits}\nshift 3\nexec "$@"\n')
    told.chmod(0o755)
    tools = ("memcheck", "racecheck", "synccheck", "initcheck")
    run_check("--minutes", "1", "search_mma", "search_wgmma", *tools)
    lines = limits.read_text().splitlines()
    shares = [int(line.split()[0]) for line in lines if "compute-sanitizer" in line]
    # wgmma has failed, so that four are to come. Seconds pass between two looks at the clock.
    assert len(shares) == 4 and shares[0] <= 15 and shares[1] <= 20 and shares[2] <= 30
    assert shares == sorted(shares) and shares[3] > 30


def test_a_measurement_that_is_cut_off_while_it_is_written_is_as_it_was(tmp_path):
    from gpu_report import read, write

    path = tmp_path / "speed.json"
    write(path, {"results": []})
    with pytest.raises(TypeError):
        write(path, {"results": [object()]})
    assert read(path) == {"results": []}


def test_no_step_begins_without_time(run_check):
    done, report, _ = run_check("--minutes", "0")
    assert done.returncode == 1
    assert report["steps"]["build"] == "no time was left"


def test_tests_that_would_be_skipped_do_not_pass(run_check):
    done, report, _ = run_check("--quick", NO_LIBRARY="1")
    assert done.returncode == 1
    assert report["steps"]["library"] == "does not load" and "ops" not in report["steps"]
