"""The course of benchmarks/gpu_check.sh, with made-up steps: no GPU is needed to see that."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


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
# WGMMA is what the tests of that search do.
PYTHON = f"""#!/bin/bash
case "$*" in
  *gpu_report*) exec {sys.executable} "$@" ;;
  *"-m zipfile"*) exec {sys.executable} "$@" ;;
  *torch.cuda.is_available*) exit 0 ;;
  *"import pytest_timeout"*) [ -n "$PYTEST_TIMEOUT" ]; exit ;;
  *_nearest_code_way*) [ -z "$NO_WGMMA" ]; exit ;;
  *"-m pip install"*) [[ "$*" != *imageio* && "$*" != *tifffile* ]]; exit ;;
  *build_ext*) [ -z "$NO_BUILD" ] && rm -f unbuilt; exit ;;
  *load_libraries*) [ -z "$NO_LIBRARY" ] && [ ! -e unbuilt -o -e vqgan_fast/libx.so ]; exit ;;
  *"test_search_on_gpu.py -k wgmma"*) echo "${{WGMMA-E   nothing of note}}"
    exit ${{WGMMA_STATUS-1}} ;;
  *"soft_assign_on_gpu.py -k"*) exit 124 ;;  # as timeout ends what lasts too long
  *) echo "searches by ${{VQGAN_FAST_CUDA_SEARCH-auto}}: $*" ;;
esac
"""
# What those tests may print.
WRONG = "E   AssertionError: 3 of 300 indices differ, first tensor([0])"
CRASHED = "E   torch.AcceleratorError: CUDA error: an illegal memory access was encountered"
CAPTURE = "E   RuntimeError: nearest_code: CUDA error 900, operation not permitted when capturing"
HUNG = "+++++++++++++ Timeout +++++++++++++"
# Stands for compute-sanitizer: of the options that the script may take, it has those in HELP.
SANITIZER = """#!/bin/bash
[ "$1" != --help ] || { echo "$HELP"; exit; }
[ "$1" != --version ] || { echo "Version 2026.9.9"; exit; }
echo "sanitized: $*"
"""


@pytest.fixture
def run_check(tmp_path):
    """gpu_check.sh in a folder of its own, on a machine that has nothing but what is made up."""
    (tmp_path / "benchmarks").mkdir()
    for name in ("gpu_check.sh", "gpu_report.py"):
        shutil.copy(ROOT / "benchmarks" / name, tmp_path / "benchmarks")
    (tmp_path / "bin").mkdir()
    (tmp_path / "vqgan_fast").mkdir()
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


@pytest.fixture
def sanitizer(tmp_path):
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / "compute-sanitizer").write_text(SANITIZER)
    (tmp_path / "bin" / "compute-sanitizer").chmod(0o755)


def test_steps_go_on_behind_those_that_fail(run_check):
    done, report, log = run_check("--quick", WGMMA=WRONG, VQGAN_FAST_TEST_SEED="77")
    assert done.returncode == 1
    steps = report["steps"]
    assert steps["build"].startswith("passed") and steps["search_mma"].startswith("passed")
    assert steps["search_wgmma"].startswith("wrong indices")
    assert steps["soft_assign"].startswith("ended by its limit")
    assert steps["memcheck"].startswith("not found")
    assert steps["exactness"].startswith("passed") and "suite" not in steps
    assert steps["libraries that are run"] == "built by this call" and "libraries" not in steps
    assert log.startswith("VQGAN_FAST_TEST_SEED=77\n") and steps["seed of the tests"] == "77"
    # What may use wgmma does not, from then on.
    assert steps["search of the steps after"] == "mma"
    pytest = "-m pytest -v -rs -p no:cacheprovider -o faulthandler_timeout=60"
    assert f"searches by auto: {pytest} tests/cuda/test_search" in log
    assert "searches by mma: benchmarks/gpu_speed.py" in log
    assert report["card"]["name"] == "Made up"


@pytest.mark.parametrize(
    ("told", "outcome", "way", "timed"),
    [
        ("E   assert 3 == 4", "failed", "auto", "--ways direct mma wgmma --last"),
        (CAPTURE, "failed", "auto", "--ways direct mma wgmma --last"),
        (WRONG, "wrong indices", "mma", "--ways direct mma wgmma --last"),
        (f"{WRONG}\n{CRASHED}", "crashed", "mma", "--ways direct mma --last wgmma"),
        (f"{CRASHED}\n{HUNG}", "ended by its limit", "mma", "--ways direct mma --last"),
    ],
)
def test_only_crashes_hangs_and_wrong_indices_change_the_search(
    run_check, told, outcome, way, timed
):
    _, report, log = run_check("search_direct", "search_wgmma", "speed", WGMMA=told)
    assert report["steps"]["search_wgmma"].startswith(outcome)
    assert report["steps"]["search of the steps after"] == way
    (speed,) = (line for line in log.splitlines() if line.startswith(f"searches by {way}: benchm"))
    assert speed.endswith(timed)


def test_a_process_that_dies_has_crashed(run_check):
    _, report, _ = run_check("search_wgmma", WGMMA_STATUS="139")
    assert report["steps"]["search_wgmma"].startswith("crashed")
    assert report["steps"]["search of the steps after"] == "mma"


def test_a_test_that_hangs_costs_no_whole_step(run_check, tmp_path):
    _, _, log = run_check("search_wgmma", "ops", PYTEST_TIMEOUT="1")
    assert "-k mma and not wgmma --timeout 45 --timeout-method thread" in log
    limits = tmp_path / "limits"
    limited = tmp_path / "bin" / "timeout"
    limited.write_text(f'#!/bin/bash\necho "$3 $*" >>{limits}\nshift 3\nexec "$@"\n')
    limited.chmod(0o755)
    _, _, log = run_check("search_direct", "search_wgmma")
    lines = [line for line in limits.read_text().splitlines() if "test_search" in line]
    assert len(lines) == 2 and all(line.startswith("90 ") for line in lines)


def test_the_tools_see_wgmma_whatever_its_tests_found(run_check, sanitizer):
    tools = ["memcheck", "wgmma_memcheck", "racecheck", "wgmma_racecheck", "synccheck", "initcheck"]
    _, report, log = run_check("--minutes", "9", WGMMA=CRASHED)
    assert [name for name in report["steps"] if name.endswith("check")] == tools
    runs = [line for line in log.splitlines() if line.startswith("sanitized: ")]
    assert all("rings" in run and "backward" in run for run in runs) and len(runs) == 6
    assert ["and not wgmma" in run for run in runs] == [
        not name.startswith("wgmma") for name in tools
    ]
    _, report, _ = run_check("--minutes", "9", NO_WGMMA="1", WGMMA_STATUS="0")
    assert "wgmma_memcheck" not in report["steps"] and "racecheck" in report["steps"]
    _, report, _ = run_check("wgmma_racecheck", NO_WGMMA="1", WGMMA=HUNG)
    assert report["steps"]["wgmma_racecheck"].startswith("passed")


def test_the_tools_get_options_that_they_have(run_check, sanitizer):
    own, api = "--kernel-regex kns=vqgan_fast", "--report-api-errors no"
    have = "  --report-api-errors arg (=explicit)\n  --kernel-regex arg"
    _, _, log = run_check("racecheck", "initcheck", HELP=have)
    race, init = (line for line in log.splitlines() if line.startswith("sanitized: "))
    assert "Version 2026.9.9" in log
    assert "--tool racecheck" in race and own in race and api in race
    assert "--tool initcheck" in init and own not in init and api in init
    _, _, log = run_check("synccheck", HELP="--kernel-regex-exclude arg")
    assert own not in log.splitlines()[-1] and api not in log.splitlines()[-1]
    _, _, log = run_check("synccheck", HELP="  --kernel-name arg\n  --print-limit arg (=100)")
    assert "--kernel-name kns=vqgan_fast --print-limit 50" in log.splitlines()[-1]


def test_steps_that_are_named_add_to_what_was_found(run_check):
    run_check("--quick", WGMMA=WRONG)
    done, report, log = run_check("search_mma", "speed")
    assert report["steps"]["exactness"].startswith("passed")  # of the first call
    assert log.count("== exactness") == 1 and log.count("== speed") == 2
    assert log.count("searches by mma: benchmarks/gpu_speed.py") == 2
    assert done.returncode == 0


def test_on_a_machine_that_has_nothing_named_steps_bring_what_they_need(run_check, tmp_path):
    (tmp_path / "unbuilt").touch()
    _, report, log = run_check("speed", WGMMA=WRONG)
    steps = report["steps"]
    assert steps["build"].startswith("passed") and steps["search_mma"].startswith("passed")
    assert steps["search_wgmma"].startswith("wrong indices") and "ops" not in steps
    assert "searches by mma: benchmarks/gpu_speed.py" in log


def test_where_the_build_fails_a_wheel_takes_its_place(run_check, tmp_path):
    (tmp_path / "unbuilt").touch()
    (tmp_path / "wheels").mkdir()
    wheel = tmp_path / "wheels" / "vqgan_fast-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("vqgan_fast/libx.so", "built elsewhere")
        file.writestr("vqgan_fast/__init__.py", "not taken")
    done, report, log = run_check("search_direct", NO_BUILD="1")
    steps = report["steps"]
    assert done.returncode == 1 and steps["build"].startswith("failed")
    assert steps["libraries"].startswith("passed") and steps["search_direct"].startswith("passed")
    assert [path.name for path in (tmp_path / "vqgan_fast").iterdir()] == ["libx.so"]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    told = f"of {wheel.name}, SHA-256 {digest}: its kernels are those of the commit"
    assert steps["libraries that are run"].startswith(told)
    assert f"libraries that are run: {told}" in log


def test_a_wheel_that_is_named_is_taken_without_a_build(run_check, tmp_path):
    (tmp_path / "unbuilt").touch()
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "vqgan_fast-0.1.0-py3-none-any.whl", "w") as file:
        file.writestr("vqgan_fast/libx.so", "built elsewhere")
    _, report, log = run_check("libraries", "search_direct")
    assert "build" not in report["steps"] and "build_ext" not in log
    assert report["steps"]["search_direct"].startswith("passed")


def test_every_wheel_that_is_lacking_is_named(run_check, tmp_path):
    (tmp_path / "wheels").mkdir()
    _, report, log = run_check("wheels")
    assert report["steps"]["wheels"].startswith("failed")
    assert "neither installed nor to be had from wheels/: imageio tifffile\n" in log
    assert "setuptools>=77 cmake>=3.25 ninja pybind11>=2.13" in log


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
    run_check("--minutes", "1", "search_mma", "search_wgmma", *tools, WGMMA=WRONG)
    lines = limits.read_text().splitlines()
    shares = [int(line.split()[0]) for line in lines if "compute-sanitizer --tool" in line]
    # Those of wgmma are not named, so that four are to come. Seconds pass
    # between two looks at the clock.
    assert len(shares) == 4 and shares[0] <= 15 and shares[1] <= 20 and shares[2] <= 30
    assert shares == sorted(shares) and shares[3] > 30


def test_no_step_begins_without_time(run_check):
    done, report, _ = run_check("--minutes", "0")
    assert done.returncode == 1
    assert report["steps"]["build"] == "no time was left"


def test_tests_that_would_be_skipped_do_not_pass(run_check):
    done, report, _ = run_check("--quick", NO_LIBRARY="1")
    assert done.returncode == 1
    assert report["steps"]["library"] == "does not load" and "ops" not in report["steps"]
