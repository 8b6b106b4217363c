"""Making a component: `python -m tidegate_plugin build SOURCE [-o FILE]`."""

import argparse
import importlib
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

WIT = Path(__file__).resolve().parents[2] / "wit" / "plugin.wit"
PACKAGES = Path(__file__).resolve().parents[1]

INTERFACES = ("filter", "transform", "verify", "respond", "sign", "judge")

WORLD = """
world built {{
    include host;
{exports}}}
"""
"""The world that a component is made for, added to the SDK's own."""

APP = """\
import tidegate_plugin.guest
import {module}

[{classes}] = tidegate_plugin.guest.offer({module}, {offered!r})
"""


def offers(source: Path) -> tuple[str, ...]:
    """Which of the interfaces a plugin's module has functions for; of one with `__all__`, those that it names."""
    sys.path.insert(0, str(source.parent))
    module = importlib.import_module(source.stem)
    public = getattr(module, "__all__", INTERFACES)
    return tuple(name for name in INTERFACES if name in public and callable(getattr(module, name, None)))


def build(source: Path, output: Path) -> tuple[str, ...]:
    """Makes a component of a plugin; gives what it offers."""
    if source.suffix != ".py" or not source.stem.isidentifier():
        raise SystemExit(f"{source} is no Python module")
    offered = offers(source)
    if not offered:
        raise SystemExit(f"{source} has no function {', '.join(INTERFACES[:-1])} or {INTERFACES[-1]}")
    with tempfile.TemporaryDirectory(prefix="tidegate-plugin-") as scratch:
        classes = ", ".join(name.capitalize() for name in offered)
        Path(scratch, "tidegate_app.py").write_text(APP.format(module=source.stem, classes=classes, offered=offered))
        exports = "".join(f"    export {name};\n" for name in offered)
        wit = Path(scratch, "plugin.wit")
        wit.write_text(WIT.read_text() + WORLD.format(exports=exports))
        places = [scratch, source.parent, PACKAGES]
        program = Path(sysconfig.get_path("scripts"), "componentize-py")
        command = [program if program.exists() else "componentize-py", "-q", "-d", wit, "-w", "built", "componentize"]
        command += [part for place in places for part in ("-p", place)]
        # Without a fixed seed, sets of strings would have another order in each build.
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        done = subprocess.run([*command, "--stub-wasi", "-o", output, "tidegate_app"], env=environment)
    if done.returncode != 0:
        raise SystemExit("componentize-py could not make a component of it")
    return offered


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="tidegate_plugin", description="Work on Tidegate plugins in Python.")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="make a component of a module")
    make.add_argument("source", type=Path, help="the module: a .py file")
    make.add_argument("-o", "--output", type=Path, help="where to [default: the module's name with .wasm]")
    arguments = parser.parse_args()
    source = arguments.source.resolve()
    output = arguments.output or Path(f"{source.stem}.wasm")
    offered = build(source, output.resolve())
    print(f"made {output} ({output.stat().st_size} bytes): {', '.join(offered)}")
    print(f"next: tidegate plugin check {output}")
