"""Builds wheel and sdist, and tries the wheel in clean environments, outside of the checkout: `package.py [PYTHON ...]`."""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
IMPORTS = 5


def run(*command: object, cwd: Path) -> float:
    """Runs a command and returns its seconds; ends with what it said if it fails."""
    started = time.perf_counter()
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started


def build() -> Path:
    """Builds both into dist/, the wheel from the sdist, and returns the wheel."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    run(UV, "build", "--quiet", "--out-dir", "dist", cwd=ROOT)
    for path in sorted((ROOT / "dist").glob("loradar-*")):
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
    return next((ROOT / "dist").glob("*.whl"))


def check_files(wheel: Path) -> None:
    """The wheel has every file of the package that git knows, its metadata, and nothing else."""
    tracked = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    expected = {line.removeprefix("src/") for line in tracked.splitlines()}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if held != expected:
        sys.exit(f"missing in the wheel: {sorted(expected - held)}; not of the package: {sorted(held - expected)}")
    print(f"{len(held)} files, {sum(not name.endswith('.py') for name in held)} of them not Python")


def try_wheel(wheel: Path, python: str) -> None:
    """Installs the wheel into a new environment and runs it from another folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(UV, "venv", "--quiet", "--python", python, folder / "env", cwd=folder)
        constraints = ("--constraint", ROOT / "constraints.txt")
        inside = folder / "env/bin"
        spent = run(UV, "pip", "install", "--quiet", "--python", inside / "python", *constraints, wheel, cwd=folder)
        version = wheel.name.split("-")[1]
        said = subprocess.run([inside / "loradar", "--version"], cwd=folder, capture_output=True, text=True, check=True)
        if said.stdout != f"loradar {version}\n":
            sys.exit(f"the wheel is {version}, `loradar --version` says {said.stdout!r}")
        run(inside / "loradar", "attacks", "list", cwd=folder)
        seconds = [run(inside / "python", "-c", "import loradar", cwd=folder) for _ in range(IMPORTS)]
        bare = [run(inside / "python", "-c", "pass", cwd=folder) for _ in range(IMPORTS)]
    print(
        f"Python {python}: installed in {spent:.0f} s; `import loradar` {1000 * statistics.median(seconds):.0f} ms, "
        f"a bare interpreter {1000 * statistics.median(bare):.0f} ms (medians of {IMPORTS})"
    )


if __name__ == "__main__":
    built = build()
    check_files(built)
    for each in sys.argv[1:]:
        try_wheel(built, each)
