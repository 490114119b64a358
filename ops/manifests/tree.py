"""The files of the repository as the checks see them: as they are, or with a change that a check must notice."""

import functools
import json
import pathlib
import re
import tomllib

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class Strict(yaml.SafeLoader):
    """Refuses a key that a mapping has twice: YAML's readers take the last one without a word."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.value != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class Tree:
    """The repository, with `changes` (path to text) in the place of what the files hold."""

    def __init__(self, changes=None):
        self.changes = changes or {}

    def changed(self, path, old, new):
        """A copy in which `old` is `new`, once."""
        text = self.text(path)
        assert old in text, f"{path} has no {old!r}: the self-test is out of date"
        return Tree({**self.changes, path: text.replace(old, new, 1)})

    def exists(self, path):
        """Whether there is such a file or directory."""
        return path in self.changes or (ROOT / path).exists()

    def text(self, path):
        """What a file holds."""
        return self.changes[path] if path in self.changes else (ROOT / path).read_text(encoding="utf-8")

    def files(self, directory, suffix, deep=False):
        """Paths of the files with this suffix, in order; `deep`: in directories below as well."""
        found = (ROOT / directory).glob(f"**/*{suffix}" if deep else f"*{suffix}")
        return sorted(str(path.relative_to(ROOT)) for path in found)

    def documents(self, path):
        """The documents of a YAML file."""
        return [document for document in yaml.load_all(self.text(path), Loader=Strict) if document]

    def toml(self, path):
        """A TOML file."""
        return tomllib.loads(self.text(path))

    def json(self, path):
        """A JSON file."""
        return json.loads(self.text(path))

    def seconds(self, path, name):
        """A constant of a Rust file, in s."""
        found = re.search(rf"const {name}: Duration = Duration::from_secs\((\d+)\);", self.text(path))
        assert found, f"{path} has no constant {name}"
        return int(found[1])

    @functools.cached_property
    def gateway(self):
        """The gateways' configuration: what ops/config sets, and the defaults of the code."""
        defaults = gateway_defaults(self.text("gateway/src/config/sections.rs"))
        return Config(self.toml("ops/config/gateway.toml"), defaults)

    @functools.cached_property
    def router(self):
        """The routers' configuration, likewise."""
        source = self.text("router/src/config.rs")
        default_file = source.split('DEFAULT_FILE: &str = r#"', 1)[1].split('"#;', 1)[0]
        return Config(self.toml("ops/config/router.toml"), tomllib.loads(default_file))

    @functools.cached_property
    def version(self):
        """The version of the workspace."""
        return self.toml("Cargo.toml")["workspace"]["package"]["version"]


class Config:
    """Values by section and key."""

    def __init__(self, values, defaults):
        self.values = values
        self.defaults = defaults

    def has(self, section, key):
        """Whether the program knows this key."""
        return key in self.defaults.get(section, {})

    def get(self, section, key):
        """The value of a key."""
        return self.values.get(section, {}).get(key, self.defaults[section][key])

    def port(self, section, key):
        """The port of an address."""
        return int(self.get(section, key).rsplit(":", 1)[1])


def gateway_defaults(source):
    """Sections, keys and defaults of the gateway's code; numbers and texts as such, all else as it is written."""
    sections = {}
    for section, body in re.findall(r'\w+ = "(\w+)" \{\n(.*?)\n    \}', source, re.DOTALL):
        keys = re.findall(r"^        (\w+): \w[\w<>]* = (.+?)(?:, in .*|, one of .*)?;$", body, re.MULTILINE)
        sections[section] = {key: literal(default) for key, default in keys}
    return sections


def literal(text):
    """The value of a Rust literal."""
    if re.fullmatch(r"[\d_]+", text):
        return int(text)
    quoted = re.fullmatch(r'"(.*)"\.to_owned\(\)', text)
    return quoted[1] if quoted else text


def variable_problems(where, name, config):
    """What is wrong with an environment variable, if it is one of Corelane's."""
    if not name.startswith("CORELANE"):
        return
    parts = name.split("__")
    if parts[0] != "CORELANE" or len(parts) != 3:
        yield f"{where}: {name} has not the form CORELANE__SECTION__KEY"
    elif not config.has(parts[1].lower(), parts[2].lower()):
        yield f"{where}: {name} sets a key that the program does not know"


def image_problems(where, image, version):
    """What is wrong with the name of an image: another one may come under it tomorrow."""
    name, _, tag = image.rpartition(":")
    if not name or "/" in tag:
        yield f"{where}: the image {image} has no tag"
    elif not re.search(r"\d", tag) or tag.startswith("latest"):
        yield f"{where}: the tag of {image} names no version"
    elif name == "corelane" and tag != version:
        yield f"{where}: {image}, but the workspace is version {version}"
