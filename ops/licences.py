#!/usr/bin/env python3
"""Bans, licences and sources of the dependency graph, as locked. Needs cargo and nothing that is built.

Every crate must come from crates.io or from this repository, have a licence that ops/licences.txt allows, and not stand
in ops/banned-crates.txt. Crates that are there in several incompatible versions are listed; that is no error.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORKSPACES = ("Cargo.toml", "tests/fuzz/Cargo.toml")
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def listed(name):
    """The entries of a committed list: first word of each line, and the reason behind it."""
    lines = (ROOT / "ops" / name).read_text().splitlines()
    entries = (line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#"))
    return {entry[0]: entry[1] if len(entry) > 1 else "" for entry in entries}


def is_allowed(expression, allowed):
    """Whether an SPDX expression is satisfied; `A/B` is an old form of `A OR B`. Raises ValueError if it is none."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))

    def take(expected=None):
        if not tokens or (expected and tokens[0] != expected):
            raise ValueError(expression)
        return tokens.pop(0)

    def one():
        if tokens[:1] == ["("]:
            take("(")
            value = either()
            take(")")
            return value
        licence = take()
        if licence in ("AND", "OR", "WITH", ")"):
            raise ValueError(expression)
        if tokens[:1] == ["WITH"]:
            take("WITH")
            take()
        return licence.removesuffix("+") in allowed

    def both():
        value = one()
        while tokens[:1] == ["AND"]:
            take("AND")
            value = one() and value
        return value

    def either():
        value = both()
        while tokens[:1] == ["OR"]:
            take("OR")
            value = both() or value
        return value

    value = either()
    if tokens:
        raise ValueError(expression)
    return value


def check_parser():
    """What the check stands on: an expression that is read wrong would let anything pass."""
    allowed = {"MIT", "BSD-3-Clause", "MPL-2.0", "Apache-2.0"}
    for expression, expected in (
        ("MIT", True),
        ("GPL-3.0", False),
        ("GPL-3.0 OR MIT", True),
        ("GPL-3.0/MIT", True),
        ("MIT AND GPL-3.0", False),
        ("MIT AND BSD-3-Clause", True),
        ("(MIT OR GPL-3.0) AND GPL-2.0", False),
        ("(MIT OR GPL-3.0) AND Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0 OR MIT AND GPL-3.0", False),
        ("MPL-2.0+", True),
    ):
        assert is_allowed(expression, allowed) == expected, expression


def packages():
    """Every package of every workspace, once. For the platform of this machine: what is for others is not built."""
    version = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    host = re.search(r"^host: (\S+)$", version, re.MULTILINE)[1]
    found = {}
    for manifest in WORKSPACES:
        command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host]
        command += ["--manifest-path", str(ROOT / manifest)]
        metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        found.update((package["id"], package) for package in metadata["packages"])
    return sorted(found.values(), key=lambda package: (package["name"], package["version"]))


def problems_of(package, allowed, banned):
    """What is wrong with a package, each as a text."""
    name, source = package["name"], package["source"]
    if name in banned:
        yield f"is banned by ops/banned-crates.txt: {banned[name]}"
    if source is None and not pathlib.Path(package["manifest_path"]).is_relative_to(ROOT):
        yield f"comes from {package['manifest_path']}, allowed are crates.io and paths in this repository"
    if source is not None and source != CRATES_IO:
        yield f"comes from {source}, allowed are crates.io and paths in this repository"
    licence = package["license"]
    if not licence:
        yield f"names no licence (licence file: {package['license_file']}), wanted is an SPDX expression"
        return
    try:
        if not is_allowed(licence, allowed):
            yield f"has the licence {licence}, allowed by ops/licences.txt are {', '.join(sorted(allowed))}"
    except ValueError:
        yield f"has the licence {licence!r}, which is no SPDX expression"


def compatible(version):
    """The part of a version in which compatible ones agree."""
    major, minor, patch = version.split("+")[0].split("-")[0].split(".")
    if major != "0":
        return major
    return f"0.{minor}" if minor != "0" else f"0.0.{patch}"


def main():
    check_parser()
    allowed, banned = listed("licences.txt"), listed("banned-crates.txt")
    all_packages = packages()
    versions = collections.defaultdict(set)
    wrong = 0
    for package in all_packages:
        versions[package["name"]].add(compatible(package["version"]))
        for problem in problems_of(package, allowed, banned):
            print(f"error: {package['name']} {package['version']} {problem}")
            wrong += 1
    several = {name: kinds for name, kinds in versions.items() if len(kinds) > 1}
    print(f"{len(all_packages)} packages, {wrong} problems")
    print(f"several incompatible versions of {len(several)} crates (no error):")
    for name, kinds in sorted(several.items()):
        print(f"    {name} {', '.join(sorted(kinds))}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
