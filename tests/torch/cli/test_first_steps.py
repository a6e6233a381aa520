"""What a newcomer meets first: a starter kit, a check-up, completion, and mended messages."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from builders import ROOT, assert_one_line, listing, run_python, write_fit_config

from ptycho_torch import RawData, simulate_scan
from ptycho_torch.cli import DATA_AT_FAULT, DONE, WRONG_USAGE, main
from ptycho_torch.cli.options import command_line

# -- init ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_in_the_starter_kit_runs_as_written(tmp_path):
    pytest.importorskip("lightning", reason="lightning is not installed: fit")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")
    command = tmp_path / "bin" / "ptycho-torch"
    command.parent.mkdir()
    source = "import sys; sys.path.insert(0, {!r}); sys.path[:] = [p for p in sys.path if p]; "
    source = source.format(str(ROOT)) + "from ptycho_torch.cli import main; sys.exit(main())"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c {shlex.quote(source)} "$@"\n')
    command.chmod(0o755)
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment = {**clean, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def typed(text: str, folder: Path) -> str:
        shell = ["bash", "-euo", "pipefail", "-c", text]
        result = subprocess.run(
            shell, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    typed("ptycho-torch init kit", tmp_path)
    kit = tmp_path / "kit"
    blocks = re.findall(r"```(\w+)\n(.*?)```", (kit / "README.md").read_text(), re.DOTALL)
    assert [kind for kind, _ in blocks] == ["bash", "bash", "bash", "python"]
    said = "".join(typed(text, kit) for kind, text in blocks if kind == "bash")
    centred = [float(found) for found in re.findall(r"centred (-?\d\.\d+) \(flat object 0", said)]
    # Both fits of object and probe, the network on what it trained on, and its prediction.
    assert len(centred) >= 4 and min(centred[:2]) > 0.9 and min(centred) > 0.1, said
    assert "configurations" not in said
    for name in ("scan", "fit", "own_model"):
        assert (kit / "outputs" / name / "reconstruction.png").is_file()
    result = run_python(blocks[-1][1], cwd=kit)
    assert result.stdout.split("\n")[0] == "torch.Size([8, 32, 32, 4])", result.stderr


def test_init_refuses_to_overwrite_anything(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own_model.py").write_text("precious")
    assert main(["init"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "own_model.py", "there already", "init DIR")
    assert os.listdir() == ["own_model.py"]
    assert main(["init", "deep/kit"]) == DONE
    written = set(os.listdir("deep/kit"))
    said = capsys.readouterr().out
    assert all(f"deep/kit/{name}\n" in said for name in written)
    assert RawData.from_file("deep/kit/scan.npz").N == 32
    before = listing(Path())
    assert main(["init", "deep/kit"]) == WRONG_USAGE
    assert main(["init", "deep/kit/scan.npz"]) == WRONG_USAGE
    assert "scan.npz: DIR is a file; expected a folder" in capsys.readouterr().err
    assert listing(Path()) == before


@pytest.mark.slow
@pytest.mark.parametrize("words", [["fit", "scan.npz"], ["fit", "--config", "fit.yaml"]])
def test_a_fit_without_torch_says_what_to_install(tmp_path, words):
    simulate_scan(n_frames=16, N=16, seed=1).to_file(tmp_path / "scan.npz")
    code = f"from ptycho_torch.cli import main; sys.exit(main({words!r}))"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    result = run_python(code, cwd=tmp_path, without_torch=True)
    assert result.returncode == WRONG_USAGE, result.stderr
    assert_one_line(result.stderr, "is not installed: ptycho-torch fit needs it; pip install")


# -- doctor --------------------------------------------------------------------------------------


@pytest.fixture
def quiet_home(tmp_path, tmp_path_factory, monkeypatch):
    """A folder to look at, a cache directory below it, and no GPU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Importing matplotlib makes its own.
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def states(out: str) -> dict[str, str]:
    return {line.split()[1]: line.split()[0] for line in out.splitlines()}


@pytest.mark.slow
def test_doctor_finds_this_machine_in_order_and_leaves_nothing(quiet_home):
    code = "from ptycho_torch.cli import main; import sys; sys.exit(main(['doctor']))"
    result = run_python(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}", cwd=quiet_home)
    assert result.returncode == DONE, result.stdout + result.stderr
    found = states(result.stdout)
    assert found["ptycho-torch"] == found["numpy"] == found["npz"] == "ok"
    assert f"numpy          {np.__version__}\n" in result.stdout
    assert re.search(r"^ok +beside scans +\.: locks work, [\d.]+ GiB free", result.stdout, re.M)
    assert os.listdir(quiet_home) == []


@pytest.mark.slow
def test_doctor_works_without_torch(quiet_home):
    code = "from ptycho_torch.cli import main; sys.exit(main(['doctor']))"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    result = run_python(code, cwd=quiet_home, without_torch=True)
    assert result.returncode == DONE, result.stdout + result.stderr
    assert "missing  torch          for fit, validate, test and predict: pip install 'torch'" in (
        result.stdout
    )
    assert states(result.stdout)["torchmetrics"] == "missing"


@pytest.fixture
def without_heavy(monkeypatch):
    """Doctor without the packages that take seconds to import."""
    monkeypatch.setattr("ptycho_torch.cli.doctor._TRAINING", ())
    monkeypatch.setattr("ptycho_torch.cli.doctor._devices", lambda: ())


def test_doctor_names_a_distribution_that_clashes(quiet_home, without_heavy, monkeypatch, capsys):
    site = quiet_home / "site" / "ptychopinn-2.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: ptychopinn\nVersion: 2.0\n")
    monkeypatch.syspath_prepend(str(site.parent))
    assert main(["doctor"]) == DATA_AT_FAULT
    said = capsys.readouterr().out
    assert states(said)["ptychopinn"] == "broken"
    assert "pip uninstall -y ptychopinn ptycho-torch" in said


def test_doctor_says_what_an_old_or_broken_package_needs(
    quiet_home, without_heavy, monkeypatch, capsys
):
    (quiet_home / "matplotlib.py").write_text("raise RuntimeError('half installed')")
    monkeypatch.syspath_prepend(str(quiet_home))
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    monkeypatch.setattr(metadata, "requires", lambda _: ["numpy>=99", "scipy>=1.0"])
    assert main(["doctor"]) == DATA_AT_FAULT
    said = capsys.readouterr().out
    assert "expected 99 or newer: pip install 'numpy>=99'" in said
    assert states(said)["scipy"] == "ok"
    assert "broken   matplotlib     cannot be imported: half installed" in said


def test_doctor_without_h5py_names_formats_and_the_pip_line(
    quiet_home, without_heavy, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "h5py", None)
    main(["doctor"])
    said = capsys.readouterr().out
    assert "missing  h5py           for scans in HDF5: pip install 'ptycho-torch[formats]'" in said
    assert re.search(r"missing  cxi +\.cxi, \.h5, \.hdf5: pip install 'ptycho-torch\[form", said)
    assert states(said)["npz"] == "ok"


def test_doctor_without_locks_sends_caches_elsewhere_or_is_broken(
    quiet_home, without_heavy, monkeypatch, capsys
):
    import fcntl

    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert main(["doctor"]) == DATA_AT_FAULT
    said = capsys.readouterr().out
    assert "no cache can lie in" in said and "without kernel locks" in said
    assert "set XDG_CACHE_HOME" in said


def test_doctor_does_not_trust_a_lock_that_two_may_hold(
    quiet_home, without_heavy, monkeypatch, capsys
):
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert main(["doctor"]) == DATA_AT_FAULT
    assert "two processes get one lock" in capsys.readouterr().out


# -- completion ----------------------------------------------------------------------------------

COMPLETE = """
source /dev/stdin
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_ptycho_torch
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["in"], {"init", "inspect"}),
        (["inspect", "--or"], {"--orientations", "--orientation"}),
        (["inspect", "scan.npz", "--measurement", ""], {"auto", "amplitude", "counts"}),
        (["inspect", "scan.npz", "--measurement", "c"], {"counts"}),
        (["simulate", "o.npz", "--pattern", "f"], {"fermat"}),
        (["fit", "--conf"], {"--config"}),
        (["completion", ""], {"bash", "zsh"}),
        # File names: left to the shell.
        (["inspect", "s"], {""}),
        (["convert", "scan.npz", "--dark", ""], {""}),
    ],
)
def test_bash_completes(capsys, words, offered):
    assert main(["completion", "bash"]) == DONE
    script = capsys.readouterr().out
    shell = ["bash", "-uc", COMPLETE, "bash", "ptycho-torch", *words]
    result = subprocess.run(shell, input=script, capture_output=True, text=True, check=True)
    assert set(result.stdout.split("\n")[:-1]) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_registers_the_completion_with_file_names_as_the_rest(capsys):
    main(["completion", "bash"])
    shell = ["bash", "-euc", "source /dev/stdin; complete -p ptycho-torch"]
    script = capsys.readouterr().out
    result = subprocess.run(shell, input=script, capture_output=True, text=True, check=True)
    assert result.stdout == "complete -o default -F _ptycho_torch ptycho-torch\n"
    main(["completion", "zsh"])
    assert capsys.readouterr().out.endswith(script)


# -- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["fit", "convert", "verify"])
def test_a_directory_names_its_scans(folder, fields, capsys, command):
    if command == "fit":
        pytest.importorskip("torch", reason="torch is not installed: a fit needs it")
    Path("scans").mkdir()
    for name in "abcd":
        np.savez(f"scans/{name}.npz", **fields)
    Path("scans/notes.txt").touch()
    assert main([command, "scans", *(["out.npz"] if command == "convert" else [])]) == WRONG_USAGE
    listed = "Its scans are scans/a.npz, scans/b.npz, scans/c.npz, ...; "
    assert_one_line(capsys.readouterr().err, "scans is a directory; expected one scan", listed)


CLASS_PATHS = {
    "ObjectFitt": ["a class with its module, such as ptycho_torch.ObjectFit", "PYTHONPATH=."],
    "ptycho_torch.ObjectFitt": ["a class of ptycho_torch, such as ptycho_torch.ObjectFit"],
    "own_folder_net.Model": ["no module own_folder_net", "in this folder: type PYTHONPATH=. "],
    "nowhere_net.Model": ["no module nowhere_net", "PYTHONPATH=FOLDER", "nowhere_net.py"],
    "needy_net.Model": ["needs not_there_at_all, which is not installed"],
    "broken_net.Model": ["cannot be imported (division by zero)"],
    "no_module_net.Model": ["a subclass of LightningModule"],
    "no_module_net.Modell": ["a class of no_module_net, such as no_module_net.Model"],
}


@pytest.mark.parametrize("path", CLASS_PATHS)
def test_a_class_that_is_not_found_says_which_module_path(folder, monkeypatch, capsys, path):
    pytest.importorskip("lightning", reason="lightning is not installed: fit")
    modules = folder / "modules"
    modules.mkdir()
    (modules / "needy_net.py").write_text("import not_there_at_all")
    (modules / "broken_net.py").write_text("1 / 0")
    (modules / "no_module_net.py").write_text("class Model: pass")
    (folder / "own_folder_net.py").touch()
    monkeypatch.setattr(sys, "path", [str(modules), *(p for p in sys.path if p)])
    write_fit_config(folder)
    text = Path("fit.yaml").read_text()
    Path("fit.yaml").write_text(text.replace("ptycho_torch.models.object_fit.ObjectFit", path))
    assert main(["fit", "--config", "fit.yaml"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, f"model.class_path is '{path}'", *CLASS_PATHS[path])


def test_too_many_groups_name_the_file_and_the_field_of_the_configuration(folder, capsys):
    pytest.importorskip("lightning", reason="lightning is not installed: fit")
    write_fit_config(folder, data="  grouping: {n_groups: 999999}")
    assert main(["fit", "--config", "fit.yaml"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "scan.npz: n_groups", "999999", "at most 40")


def test_a_checkpoint_of_another_model_than_the_configurations_is_refused(folder, capsys):
    torch = pytest.importorskip("torch", reason="torch is not installed: checkpoints")
    write_fit_config(folder)
    saved = {"hyper_parameters": {"_class_path": "ptycho_torch.PtychoPINN"}}
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", **saved}, "pinn.ckpt")
    before = listing(folder)
    words = ["predict", "--config", "fit.yaml", "--ckpt_path", "pinn.ckpt"]
    assert main(words) == DATA_AT_FAULT
    found = "pinn.ckpt: hyper_parameters is those of ptycho_torch.PtychoPINN"
    assert_one_line(capsys.readouterr().err, found, "ObjectFit, which the configuration names")
    assert listing(folder) == before


def test_a_gridsize_that_no_scan_of_this_length_has_is_refused(folder, capsys):
    assert main(["inspect", "scan.npz", "--gridsize", "20"]) == DATA_AT_FAULT
    captured = capsys.readouterr()
    assert_one_line(captured.err, "positions is 40", "at least 400", "Type --gridsize 6 or less")
    assert captured.out == ""
    assert main(["inspect", "scan.npz", "--gridsize", "6"]) == DONE


def test_a_simulated_scan_too_short_to_group_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", "three.npz", "--frames", "3", "--size", "16"]) == DONE
    assert_one_line(capsys.readouterr().err, "three.npz: 3 frames make no group", "--frames 4")
    assert main(["simulate", "four.npz", "--frames", "4", "--size", "16"]) == DONE
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["inspect", "prepare", "convert", "verify"])
def test_the_order_of_axes_is_said_on_the_command_line(folder, fields, capsys, command):
    side = fields["diff3d"].shape[-1]
    square = {name: fields[name][:side] for name in ("xcoords", "ycoords", "diff3d")}
    np.savez("cube.npz", **square, probeGuess=fields["probeGuess"])
    words = [command, "cube.npz", *(["out.npz"] if command == "convert" else [])]
    assert main(words) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "--axis-order frames_first or --axis-order frames_")
    assert main([*words, "--axis-order", "frames_last"]) == DONE
    if command == "convert":
        stored = np.load("out.npz")["diff3d"]
        np.testing.assert_array_equal(stored, square["diff3d"].transpose(2, 0, 1))


def test_the_data_modules_repr_says_what_is_in_it(folder):
    pytest.importorskip("torch", reason="torch is not installed: the data module")
    from ptycho_torch import PtychoDataModule

    text = repr(PtychoDataModule("scan.npz", batch_size=7))
    assert text.startswith("PtychoDataModule(train=") and "scan.npz" in text
    assert "batch_size=7" in text and "groups=not made yet" in text


def test_the_next_command_reads_the_scan_as_the_fit_did():
    pytest.importorskip("lightning", reason="lightning is not installed: fit")
    from ptycho_torch.cli.fit_scan import next_command
    from ptycho_torch.results.flat_object import FitVerdict

    words = "fit a.h5 --layout my.yaml --epochs 3 --out=here --size 64".split()
    options, unknown = command_line().parse_known_args(words)
    options.words = words
    assert not unknown
    typed = next_command(options, FitVerdict(0.01, 0.5, 0.01), [])
    assert typed == "ptycho-torch inspect a.h5 --layout my.yaml --size 64 --png scan.png"
    _, unknown = command_line().parse_known_args(shlex.split(typed)[1:])
    assert not unknown


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", ["install", "demo"])
def test_make_ends_with_how_to_activate(tmp_path, target):
    command = ["make", "-n", "-C", str(ROOT), "--no-print-directory", target, f"VENV={tmp_path}/v"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert text.splitlines()[-1].endswith(f". {tmp_path}/v/bin/activate && ptycho-torch --help'")
