//! What is in the container image? One layer with the static binaries, and what
//! the OCI image specification (1.1) puts around it; the same input gives the
//! same bytes. No daemon is needed to make it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{elf, whole};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What the image says of itself.
pub struct Facts {
    pub version: String,
    /// SPDX expression.
    pub licenses: String,
    /// Where its source is, and of which commit it is, where that is known.
    pub source: Option<String>,
    pub revision: Option<String>,
}

/// An image, ready to be written.
pub struct Packed {
    pub archive: Vec<u8>,
    /// Of its manifest: what names the image.
    pub digest: String,
}

/// The image as an OCI layout in a tar, which `podman load` and `skopeo` take.
/// Beside it is `manifest.json`, by which tools that are older than OCI find the
/// same blobs; with none of them was it tried.
///
/// # Errors
/// When the binary is none that runs by itself.
pub fn pack(binary: &[u8], plugin: &[u8], facts: &Facts) -> Result<Packed> {
    let of_binary = elf::read(binary).context("the binary")?;
    ensure!(of_binary.is_static, "the binary is not static, and there is nothing else in the image");
    ensure!(
        elf::read(plugin).context("the plugin")?.is_static,
        "the plugin is not static: nodes run it as it is"
    );
    let name = format!("causeway:{}", facts.version);
    let layer = archive(&[("causeway", 0o755, binary), ("causeway-cni", 0o755, plugin)])?;
    let config = Blob::json(&config(of_binary.architecture, facts, &digest(&layer)));
    let layer = Blob::new(layer);
    let manifest = Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(CONFIG),
        "layers": [layer.descriptor(LAYER)],
        "annotations": labels(facts),
    }));
    let mut descriptor = manifest.descriptor(MANIFEST);
    descriptor["platform"] = json!({"os": "linux", "architecture": of_binary.architecture});
    descriptor["annotations"] = json!({
        "org.opencontainers.image.ref.name": facts.version,
        // containerd takes the whole name from here.
        "io.containerd.image.name": format!("docker.io/library/{name}"),
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}).to_string();
    let docker = json!([{"Config": config.path(), "RepoTags": [name], "Layers": [layer.path()]}]).to_string();
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice()),
        ("index.json".to_owned(), index.as_bytes()),
        ("manifest.json".to_owned(), docker.as_bytes()),
    ];
    let blobs = [&config, &layer, &manifest];
    files.extend(blobs.map(|blob| (blob.path(), blob.bytes.as_slice())));
    files.sort();
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), 0o644, *bytes)).collect();
    Ok(Packed { archive: archive(&files)?, digest: manifest.digest })
}

/// Packs and writes; says what became of it.
///
/// # Errors
/// Those of [`pack`], and files that cannot be read or written.
pub fn write(binary: &Path, output: &Path, facts: &Facts) -> Result<()> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let Packed { archive, digest } = pack(&read(binary)?, &read(&whole::plugin_of(binary))?, facts)?;
    std::fs::write(output, &archive).with_context(|| format!("write {}", output.display()))?;
    println!("{}: causeway:{}@{digest}, {} bytes", output.display(), facts.version, archive.len());
    Ok(())
}

fn config(architecture: &str, facts: &Facts, layer: &str) -> Value {
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": ["/causeway"],
            "Cmd": ["agent"],
            "WorkingDir": "/",
            "Labels": labels(facts),
        },
        "rootfs": {"type": "layers", "diff_ids": [layer]},
        "history": [{"created_by": "cargo xtask image"}],
    })
}

fn labels(facts: &Facts) -> Value {
    let mut labels = json!({
        "org.opencontainers.image.title": "causeway",
        "org.opencontainers.image.description": "The dataplane of a container host: the agent and its commands",
        "org.opencontainers.image.version": facts.version,
        "org.opencontainers.image.licenses": facts.licenses,
    });
    for (key, value) in [("source", &facts.source), ("revision", &facts.revision)] {
        if let Some(value) = value {
            labels[format!("org.opencontainers.image.{key}")] = json!(value);
        }
    }
    labels
}

/// What the layout names by its digest.
struct Blob {
    bytes: Vec<u8>,
    digest: String,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: digest(&bytes), bytes }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A tar of files with their modes; times, owners and order are always the same.
fn archive(files: &[(&str, u32, &[u8])]) -> Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for (path, mode, bytes) in files {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        archive.append_data(&mut header, path, *bytes).with_context(|| format!("put {path} into a tar"))?;
    }
    archive.into_inner().context("end a tar")
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
