"""Everything from nothing: exports, makes the environments, quantizes with each peer, judges; resumes where it stopped.

python experiments/peers/run.py [--models A1,A9] [--peers ort,quark,aimet] [--folder FOLDER] [--environments FOLDER]
"""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from knerex_jax.zoo.fetch import cache_dir

HERE = Path(__file__).resolve().parent
_MODELS = "embedded,A9,A1,A2,A3_front,A3_back,A6_cls,A6_det,A5"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Peer:
    """A script and what its environment holds: the groups are installed one after the other.

    The small torch comes first, because a peer would draw the one that brings CUDA.
    """

    script: str
    groups: tuple[tuple[str, ...], ...]


_COMMON = ("onnxruntime==1.32.0", "psutil==7.2.2", "numpy==2.4.6")
PEERS = {
    "ort": Peer("ort_peer.py", ((*_COMMON, "onnx==1.23.2", "sympy==1.14.0"),)),
    "quark": Peer("quark_peer.py", (("torch==2.13.0",), (*_COMMON, "onnx==1.22.0", "amd-quark==0.13"))),
    "aimet": Peer(
        "aimet_peer.py",
        (("torch==2.13.0", "torchvision==0.28.0"), (*_COMMON, "onnx==1.23.2", "aimet-onnx==2.42.0")),
    ),
}


def environment(name: str, peer: Peer, base: str, folder: Path) -> Path:
    """The peer's Python, its environment made if it is missing.

    Raises:
      subprocess.CalledProcessError: it cannot be installed; what pip said is on the standard error.
    """
    home = folder / name
    complete = home / "complete"
    if not complete.is_file():
        subprocess.run([base, "-m", "venv", home], check=True)
        for group in peer.groups:
            subprocess.run([home / "bin" / "pip", "install", "-q", *group], check=True)
        complete.touch()
    return home / "bin" / "python"


def python(executable: str | Path, script: str, folder: Path, *arguments: object) -> bool:
    """Runs one of our scripts on one thread, in the folder: Quark leaves files where it runs; whether it ended well."""
    command = [executable, HERE / script, "--folder", folder, *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **_ONE_THREAD}, cwd=folder).returncode == 0


def main() -> int:
    cache = cache_dir()
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=_MODELS)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--folder", type=Path, default=cache / "peers", help="what the environments exchange")
    parser.add_argument("--environments", type=Path, default=cache / "peer_environments")
    parser.add_argument("--base", default="python3.11", help="Python of the peers' environments")
    parser.add_argument("--out", type=Path, help="for the .json and .md of the table; default: FOLDER/table")
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    asked = (folder, "--models", args.models)
    if not python(sys.executable, "export.py", *asked):
        return 1
    failed = []
    for name in args.peers.split(","):
        try:
            executable = environment(name, PEERS[name], args.base, args.environments.resolve())
        except (subprocess.CalledProcessError, OSError) as error:  # the others can still be measured
            print(f"{name}: no environment: {error}", file=sys.stderr)
            failed.append(name)
            continue
        if not python(executable, PEERS[name].script, *asked):
            failed.append(name)
    judged = python(sys.executable, "judge.py", *asked, "--out", (args.out or folder / "table").resolve())
    return int(bool(failed) or not judged)


if __name__ == "__main__":
    sys.exit(main())
