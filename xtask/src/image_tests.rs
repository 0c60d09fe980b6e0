//! Is the image what the specification says? It is read back as another would.

use std::{
    collections::BTreeMap,
    io::Read,
    process::{Command, Stdio},
};

use super::*;
use crate::{scratch::Scratch, whole};

fn facts() -> Facts {
    Facts {
        version: "1.2.3".into(),
        licenses: "MIT OR Apache-2.0".into(),
        source: Some("https://example.org/causeway".into()),
        revision: None,
    }
}

/// The binary that images get: `cargo xtask test` and `ci` build it before.
fn binary() -> Vec<u8> {
    let place = whole::place();
    std::fs::read(&place)
        .unwrap_or_else(|error| panic!("{}: {error}: cargo xtask image builds it", place.display()))
}

fn plugin() -> Vec<u8> {
    std::fs::read(whole::plugin_of(&whole::place())).unwrap()
}

/// Contents and mode of each file of a tar.
fn files(archive: &[u8]) -> BTreeMap<String, (Vec<u8>, u32)> {
    let mut archive = tar::Archive::new(archive);
    let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mtime().unwrap(), 0, "a time would make each build another");
        let path = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (path, (bytes, entry.header().mode().unwrap()))
    };
    archive.entries().unwrap().map(read).collect()
}

/// Sum and length by another program than ours.
fn sum(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), bytes).unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    said.split_whitespace().next().unwrap().to_owned()
}

/// The blob that a descriptor means, held against digest and size.
fn blob<'a>(files: &'a BTreeMap<String, (Vec<u8>, u32)>, descriptor: &Value, media_type: &str) -> &'a [u8] {
    assert_eq!(descriptor["mediaType"], media_type);
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let (bytes, _) = &files[&format!("blobs/sha256/{digest}")];
    assert_eq!(sum(bytes), digest);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

#[test]
fn the_layout_holds_two_static_programs_under_right_digests() {
    let binary = binary();
    let packed = pack(&binary, &plugin(), &facts()).unwrap();
    let files = self::files(&packed.archive);
    let value = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
    assert_eq!(value(&files["oci-layout"].0), json!({"imageLayoutVersion": "1.0.0"}));
    let index = value(&files["index.json"].0);
    let [descriptor] = index["manifests"].as_array().unwrap().as_slice() else { panic!("{index}") };
    let manifest = value(blob(&files, descriptor, MANIFEST));
    assert_eq!(descriptor["digest"], packed.digest, "what is printed");
    let config_path = manifest["config"]["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    let config = value(blob(&files, &manifest["config"], CONFIG));
    let [layer] = manifest["layers"].as_array().unwrap().as_slice() else { panic!("{manifest}") };
    let layer_path = layer["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    assert_eq!(config["rootfs"]["diff_ids"], json!([layer["digest"]]), "a layer that is not compressed");
    assert_eq!(files.len(), 6, "nothing that nobody refers to: {:?}", files.keys());
    assert_eq!(
        value(&files["manifest.json"].0),
        json!([{"Config": config_path, "RepoTags": ["causeway:1.2.3"], "Layers": [layer_path]}])
    );

    assert_eq!((&config["os"], &config["architecture"]), (&json!("linux"), &json!("amd64")));
    assert_eq!(descriptor["platform"], json!({"os": "linux", "architecture": "amd64"}));
    assert_eq!(config["config"]["Entrypoint"], json!(["/causeway"]));
    let label = |key: &str| config["config"]["Labels"][format!("org.opencontainers.image.{key}")].clone();
    assert_eq!(label("version"), "1.2.3");
    assert_eq!(label("licenses"), "MIT OR Apache-2.0");
    assert_eq!(label("source"), "https://example.org/causeway");
    assert_eq!(label("revision"), Value::Null);

    let inside = self::files(blob(&files, layer, LAYER));
    assert_eq!(inside.len(), 2, "{:?}", inside.keys());
    for (name, expected) in [("causeway", binary), ("causeway-cni", plugin())] {
        let (program, mode) = &inside[name];
        assert!(*program == expected && *mode == 0o755, "{name}");
        assert_eq!(elf::read(program).unwrap(), elf::Facts { architecture: "amd64", is_static: true });
    }
}

#[test]
fn the_same_input_gives_the_same_image() {
    let binary = binary();
    let image = pack(&binary, &plugin(), &facts()).unwrap().archive;
    assert!(image == pack(&binary, &plugin(), &facts()).unwrap().archive);
    assert!(
        image != pack(&binary, &plugin(), &Facts { version: "1.2.4".into(), ..facts() }).unwrap().archive
    );
}

#[test]
fn a_program_that_needs_libraries_is_refused() {
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let error = pack(&own, &plugin(), &facts()).err().unwrap().to_string();
    assert!(error.contains("not static"), "{error}");
}

#[test]
fn the_program_runs_where_nothing_else_is() {
    let root = Scratch::new().unwrap();
    std::fs::copy(whole::place(), root.join("causeway")).unwrap();
    let said = Command::new("chroot").arg(root.path()).args(["/causeway", "version"]).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success() && text.contains(env!("CARGO_PKG_VERSION")), "{said:?}");
}
