//! Generates TiKV's and PD's messages and services from the .proto files that ship inside the `tikv-client` package.
//! They are found through cargo metadata and compiled by `protox`, so neither a copy of them nor `protoc` is needed.

use std::env;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The client that the tests use; its .proto files are the protocol that the store has to speak.
const CLIENT: &str = "tikv-client";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = proto_folder()?;
    writeln!(std::io::stdout(), "cargo::rerun-if-changed={}", folder.display())?;
    let mut compiler = protox::Compiler::new([folder.clone(), folder.join("include")])?;
    compiler.include_source_info(false).include_imports(true);
    compiler.open_files(["tikvpb.proto", "pdpb.proto"])?;
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .include_file("protocol.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// The folder of .proto files in the package source of the locked `tikv-client`.
fn proto_folder() -> Result<PathBuf, Box<dyn Error>> {
    let output = Command::new(env::var_os("CARGO").ok_or("CARGO is not set")?)
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform"])
        .arg(env::var("TARGET")?)
        .current_dir(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?)
        .output()?;
    if !output.status.success() {
        return Err(format!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata
        .get("packages")
        .and_then(|list| list.as_array())
        .ok_or("no packages")?;
    let manifest = packages
        .iter()
        .find(|package| package.get("name").and_then(|name| name.as_str()) == Some(CLIENT))
        .and_then(|package| package.get("manifest_path")?.as_str())
        .ok_or("tikv-client is not in the dependency graph")?;
    let folder = Path::new(manifest).with_file_name("proto");
    if !folder.join("tikvpb.proto").is_file() {
        return Err(format!("{} holds no tikvpb.proto", folder.display()).into());
    }
    Ok(folder)
}
