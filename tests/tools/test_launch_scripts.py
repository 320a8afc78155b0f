"""The launch scripts, run on hosts that are not there: stand-ins for poet, srun, scontrol, xpk."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import gin
import pytest

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "tools" / "launch"
SCRIPTS = [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), *(ROOT / "tools/setup").glob("*.sh")]
# Writes its words to a file named after its process, and then does what $BEHAVE says.
POET = """#!/usr/bin/env bash
index=${*: -1}
index=${index#--process_index=}
trap 'sleep 0.2; touch "$SEEN/stopped_$index"; exit 0' TERM
echo "$@" "devices=${JAX_LOCAL_DEVICE_IDS:-}" > "$SEEN/words_$index"
echo "process $index speaks"
eval "$BEHAVE"
"""
SLEEP = "for _ in $(seq 600); do sleep 0.05; done"


def program(folder, name, text):
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def wait_for(*paths):
    deadline = time.monotonic() + 20
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"none of {paths} came"
        time.sleep(0.02)


def end_of(process):
    """Returns the exit code and what was said."""
    said = process.communicate(timeout=20)[0]
    return process.returncode, said


@pytest.fixture
def seen(tmp_path):
    folder = tmp_path / "seen"
    folder.mkdir()
    return folder


def start_local(tmp_path, behave, *words, **more):
    env = os.environ | {
        "POET": str(program(tmp_path, "poet", POET)),
        "SEEN": str(tmp_path / "seen"),
        "LOG_DIR": str(tmp_path / "logs"),
        "BEHAVE": behave,
        "POLL_S": "0.02",
    }
    return subprocess.Popen(
        [LAUNCH / "local.sh", *words],
        env=env | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_processes_on_one_machine_are_given_their_places(tmp_path, seen):
    process = start_local(tmp_path, "exit 0", "2", "train", "a b", GPUS_EACH="2", PORT="1234")
    code, said = end_of(process)
    assert code == 0, said
    joined = "train a b --coordinator_address=localhost:1234 --process_count=2"
    assert (seen / "words_0").read_text() == f"{joined} --process_index=0 devices=0,1\n"
    assert (seen / "words_1").read_text() == f"{joined} --process_index=1 devices=2,3\n"
    assert (tmp_path / "logs" / "process_1.log").read_text() == "process 1 speaks\n"


def test_one_that_fails_stops_the_others_and_gives_its_exit_code(tmp_path, seen):
    others = f'[ -e "$SEEN/words_0" ] && [ $index = 1 ] && exit 3; {SLEEP}'
    behave = (
        f'if [ $index = 1 ]; then until [ -e "$SEEN/words_0" ]; do sleep 0.02; done; fi; {others}'
    )
    process = start_local(tmp_path, behave, "2", "train")
    code, said = end_of(process)
    assert code == 3
    assert (seen / "stopped_0").exists() and not (seen / "stopped_1").exists()
    assert "process 1 ended with code 3" in said and "process 1 speaks" in said


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_sigterm_is_passed_on_and_its_end_awaited(send, tmp_path, seen):
    process = start_local(tmp_path, SLEEP, "2", "train")
    wait_for(seen / "words_0", seen / "words_1")
    send(process.pid, signal.SIGTERM)
    assert end_of(process)[0] == 0
    assert (seen / "stopped_0").exists() and (seen / "stopped_1").exists()


def test_one_that_does_not_stop_is_killed(tmp_path, seen):
    behave = f'if [ $index = 0 ]; then trap "" TERM; {SLEEP}; else sleep 0.2; exit 4; fi'
    process = start_local(tmp_path, behave, "2", "train", GRACE_S="0")
    code, said = end_of(process)
    assert code == 4 and "1 did not end within 0 s and are killed" in said


@pytest.mark.parametrize("words", [(), ("0", "train"), ("train",)])
def test_one_machine_needs_a_number_of_processes(words, tmp_path, seen):
    process = start_local(tmp_path, "exit 0", *words)
    code, said = end_of(process)
    assert code == 2 and "expected the number of processes" in said


# Like Slurm's: keeps what it was called with, and passes SIGTERM on by ending as poet would.
SRUN = """#!/usr/bin/env bash
trap 'sleep 0.1; exit 75' TERM
printf '%s\\n' "$@" > "$SEEN/srun"
env > "$SEEN/srun_env"
eval "$BEHAVE"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" > "$SEEN/scontrol"
"""


def start_slurm(tmp_path, behave, *words, **more):
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    program(bin_folder, "srun", SRUN)
    program(bin_folder, "scontrol", SCONTROL)
    env = {name: value for name, value in os.environ.items() if not name.startswith("XLA")} | {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "SEEN": str(tmp_path / "seen"),
        "BEHAVE": behave,
        "SLURM_JOB_ID": "17",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_CPUS_PER_TASK": "8",
        "MODEL_DIR": "/shared/model",
        "DATA_DIR": "/shared/data set",
    }
    return subprocess.Popen(
        ["bash", LAUNCH / "slurm.sbatch", *words],
        cwd=ROOT,
        env=env | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def seen_environment(seen):
    lines = (seen / "srun_env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_slurm_runs_one_step_with_the_flags(tmp_path, seen):
    process = start_slurm(tmp_path, "exit 0", "--gin_file=gin/runs/tiny.gin")
    code, said = end_of(process)
    assert code == 0, said
    assert (seen / "srun").read_text().splitlines() == [
        "--wait=300",
        ".venv/bin/poet",
        "train",
        "--multihost",
        "--exit_code_when_stopped=75",
        "--gin.MODEL_DIR=/shared/model",
        "--gin.DATA_DIR=/shared/data set",
        "--gin_file=gin/runs/tiny.gin",
    ]
    environment = seen_environment(seen)
    assert environment["XLA_FLAGS"] == " ".join(flags_of("xla_gpu.txt"))
    assert environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.92"
    assert environment["SRUN_CPUS_PER_TASK"] == "8"
    assert "JAX_LOCAL_DEVICE_IDS" not in environment
    assert not (seen / "scontrol").exists()


def test_one_process_a_node_takes_all_of_its_gpus(tmp_path, seen):
    flags = {"SLURM_NTASKS_PER_NODE": "1", "XLA_FLAGS": "--mine", "SLURM_CPUS_PER_TASK": ""}
    assert end_of(start_slurm(tmp_path, "exit 0", "a", **flags))[0] == 0
    environment = seen_environment(seen)
    assert environment["JAX_LOCAL_DEVICE_IDS"] == "0,1,2,3"
    assert environment["XLA_FLAGS"] == "--mine"
    assert "SRUN_CPUS_PER_TASK" not in environment


@pytest.mark.parametrize(("minutes", "bound"), [("90", 1), ("", 0)])
def test_the_run_file_says_how_long_a_stall_is(minutes, bound, tmp_path, seen):
    """The recipes bind it when they are told to, before the person's words."""
    started = start_slurm(tmp_path, "exit 0", "--gin_file=RUN.gin", STALL_MINUTES=minutes)
    assert end_of(started)[0] == 0
    asked = ["--gin.LoopConfig.stall_minutes=90"] * bound
    assert (seen / "srun").read_text().splitlines()[-2:-1] == (
        asked or ["--gin.DATA_DIR=/shared/data set"]
    )
    printed = run_xpk(tmp_path, "--gin_file=RUN.gin", STALL_MINUTES=minutes, NUM_SLICES="1")
    words = command_of(shlex.split(printed.stdout))
    assert words[-2:-1] == (asked or ["--gin.DATA_DIR=gs://b/data"])


def test_slurm_passes_sigterm_on_and_puts_a_saved_job_back(tmp_path, seen):
    process = start_slurm(tmp_path, SLEEP, "a")
    wait_for(seen / "srun_env")
    process.send_signal(signal.SIGTERM)
    assert end_of(process)[0] == 75
    assert (seen / "scontrol").read_text() == "requeue 17\n"


@pytest.mark.parametrize(
    ("code", "restarts", "is_requeued"),
    [(75, 99, True), (137, 19, True), (1, 20, False), (2, 0, False)],
)
def test_what_slurm_starts_again(code, restarts, is_requeued, tmp_path, seen):
    process = start_slurm(tmp_path, f"exit {code}", "a", SLURM_RESTART_COUNT=str(restarts))
    assert end_of(process)[0] == code
    assert (seen / "scontrol").exists() == is_requeued


def test_slurm_asks_for_the_folders(tmp_path, seen):
    process = start_slurm(tmp_path, "exit 0", MODEL_DIR="")
    code, said = end_of(process)
    assert code != 0 and "MODEL_DIR: set it to the folder for checkpoints" in said
    assert not (seen / "srun").exists()


XPK = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$SEEN/xpk"
"""
XPK_SETTINGS = {
    "CLUSTER": "pod",
    "TPU_TYPE": "v5p-128",
    "NUM_SLICES": "2",
    "NAME": "run1",
    "IMAGE": "r/poet:1",
    "MODEL_DIR": "gs://b/my model",
    "DATA_DIR": "gs://b/data",
}


def run_xpk(tmp_path, *words, **more):
    (tmp_path / "bin").mkdir(exist_ok=True)
    program(tmp_path / "bin", "xpk", XPK)
    env = os.environ | XPK_SETTINGS | {"SEEN": str(tmp_path / "seen")}
    env["PATH"] = f"{tmp_path / 'bin'}:{env['PATH']}"
    return subprocess.run(
        [LAUNCH / "xpk.sh", *words], env=env | more, capture_output=True, text=True
    )


def command_of(words):
    """What xpk is asked to run on each host, in words."""
    (command,) = [word for word in words if word.startswith("--command=")]
    return shlex.split(command.removeprefix("--command="))


def test_xpk_is_run_with_what_is_printed(tmp_path, seen):
    printed = run_xpk(tmp_path, "--gin_file=gin/runs/tiny.gin", XPK_ARGS="--zone=z --spot")
    assert printed.returncode == 0, printed.stderr
    assert not (seen / "xpk").exists()
    run_xpk(tmp_path, "--run", "--gin_file=gin/runs/tiny.gin", XPK_ARGS="--zone=z --spot")
    words = (seen / "xpk").read_text().splitlines()
    assert ["xpk", *words] == shlex.split(printed.stdout)
    assert words[:6] == [
        "workload",
        "create",
        "--cluster=pod",
        "--workload=run1",
        "--tpu-type=v5p-128",
        "--num-slices=2",
    ]
    assert "--env=LIBTPU_INIT_ARGS=" + " ".join(flags_of("xla_tpu.txt")) in words
    assert words[-2:] == ["--zone=z", "--spot"]
    assert "--restart-on-exit-codes=1,75" in words  # 2, a mistake, is not mended by another start
    assert command_of(words) == [
        "exec",
        "poet",
        "train",
        "--multihost",
        "--exit_code_when_stopped=75",
        "--gin.MODEL_DIR=gs://b/my model",
        "--gin.DATA_DIR=gs://b/data",
        "--gin.MeshConfig.replica=2",
        "--gin_file=gin/runs/tiny.gin",
    ]


@pytest.mark.parametrize(
    ("slices", "own", "replica"),
    [("2", [], 2), ("2", ["--gin.MeshConfig.replica=4"], 4), ("1", [], 1), ("", [], 1)],
)
def test_slices_of_xpk_lie_along_replica(slices, own, replica, tmp_path, seen):
    from poet.main import commands
    from poet.train import lm

    printed = run_xpk(tmp_path, "--gin_file=gin/runs/tiny.gin", *own, NUM_SLICES=slices)
    words = command_of(shlex.split(printed.stdout))
    assert ("--gin.MeshConfig.replica=2" in words) == (slices == "2")
    try:
        files, bindings, _ = commands.split_gin(words)
        commands.read_gin(files, bindings)
        assert commands.call_configured(lm.LMRun).mesh.replica == replica
    finally:
        gin.clear_config()


def test_xpk_names_what_is_missing(tmp_path, seen):
    said = run_xpk(tmp_path, CLUSTER="")
    assert said.returncode == 2 and "expected CLUSTER in the environment" in said.stderr


def flags_of(name):
    lines = (LAUNCH / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["xla_gpu.txt", "xla_tpu.txt"])
def test_each_flag_has_a_line_that_explains_it(name):
    lines = (LAUNCH / name).read_text().splitlines()
    for before, line in zip(lines, lines[1:], strict=False):
        if line.startswith("--"):
            assert before.startswith("# ") and re.fullmatch(r"--xla_\w+=\w+", line)


def test_the_installed_xla_knows_the_flags():
    """jaxlib ends the process at the first flag that it does not know; jax is not needed."""
    make_client = "from jaxlib import xla_client; xla_client.make_cpu_client()"
    for flags, is_known in [(flags_of("xla_gpu.txt"), True), (["--xla_gpu_magic=true"], False)]:
        env = os.environ | {"XLA_FLAGS": " ".join(flags)}
        ended = subprocess.run([sys.executable, "-c", make_client], env=env, capture_output=True)
        assert (ended.returncode == 0) == is_known, ended.stderr


@pytest.mark.tpu
def test_the_installed_tpu_compiler_knows_the_flags():
    """libtpu reads them as it is loaded, for which no TPU is needed."""
    pytest.importorskip("libtpu")
    load = (
        "from jax.experimental import topologies;"
        "topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x2')"
    )
    # The second: another process of this machine may have it loaded.
    alone = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    env = os.environ | {"JAX_PLATFORMS": "cpu"} | alone
    for flags, is_known in [(flags_of("xla_tpu.txt"), True), (["--xla_tpu_magic=true"], False)]:
        env["LIBTPU_INIT_ARGS"] = " ".join(flags)
        ended = subprocess.run([sys.executable, "-c", load], env=env, capture_output=True)
        assert (ended.returncode == 0) == is_known, ended.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    beside = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=beside)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed; make setup brings it")
    found = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
