#!/usr/bin/env bash
# A patch release of torchaudio asks for a function that the torch it allows does not have.
#
# One would guess: torchaudio 2.11.1, whose metadata allows every torch from 2.11 on, loads with
# torch 2.11.0, as torchaudio 2.11.0 does; a patch release only mends.
# What happens: its extension asks torch's libraries for `torch_exception_get_what_without_backtrace`
# where 2.11.0 did not, and torch 2.11.0 exports no such function, so that `import torchaudio` ends
# in an undefined symbol. pip sees nothing wrong, and an environment that was pinned by torch alone
# breaks on the day it is made anew.
# Versions: torch 2.11.0, torchaudio 2.11.0 and 2.11.1, wheels for CPython 3.11 on x86-64 Linux. The
# libraries' tables of symbols are read (pyelftools 0.33); nothing is imported, for the libraries of
# CUDA that torch's wheel needs would take 3 GB more.
# Why it matters here: every fresh environment was broken; pyproject.toml leaves 2.11.1 out.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check 'pyelftools==0.33'
for package in torch==2.11.0 torchaudio==2.11.0 torchaudio==2.11.1; do
    venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps \
        --only-binary :all: --python-version 3.11 --implementation cp --abi cp311 \
        --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
        --dest "$package" "$package"
done

cat > show.py <<'PY'
import io
import zipfile
from email.parser import Parser
from pathlib import Path

from elftools.elf.elffile import ELFFile

SYMBOL = "torch_exception_get_what_without_backtrace"


def wheel(name):
    (path,) = Path(name).glob("*.whl")
    return zipfile.ZipFile(path)


def symbols(name, folder, defined):
    found = set()
    with wheel(name) as archive:
        for member in archive.namelist():
            if member.startswith(folder) and ".so" in Path(member).name:
                table = ELFFile(io.BytesIO(archive.read(member))).get_section_by_name(".dynsym")
                found |= {
                    symbol.name
                    for symbol in table.iter_symbols()
                    if (symbol["st_shndx"] != "SHN_UNDEF") == defined
                }
    return found


exported = symbols("torch==2.11.0", "torch/lib/", True)
print(f"torch 2.11.0 exports {SYMBOL}: {SYMBOL in exported}")
for name in ("torchaudio==2.11.0", "torchaudio==2.11.1"):
    with wheel(name) as archive:
        (metadata,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        needs = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist") or []
    print(f"{name}: requires {[n for n in needs if n.startswith('torch')]},", end=" ")
    print(f"asks for it: {SYMBOL in symbols(name, 'torchaudio/', False)}")
PY
venv/bin/python show.py | tee out
grep -q 'torch 2.11.0 exports .*: False' out
grep -q 'torchaudio==2.11.0: .* asks for it: False' out
grep -q 'torchaudio==2.11.1: .* asks for it: True' out
