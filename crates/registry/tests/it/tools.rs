//! Other people's clients, where they are installed.

use crate::served::Served;
use std::path::Path;
use std::process::Command;
use yare_oci::{Descriptor, Digest, MediaType};

/// Writes an OCI layout with one image of some layers.
fn layout(folder: &Path) -> Digest {
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |kind: &str, bytes: &[u8]| {
        let descriptor = Descriptor::of(kind, bytes);
        std::fs::write(blobs.join(descriptor.digest.hex()), bytes).unwrap();
        descriptor
    };
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for number in 0_u32..3 {
        // An empty tar is 1024 zero bytes; the rest makes the layers differ in size.
        let tar = vec![0; 1024 * (number as usize + 1)];
        diff_ids.push(Digest::of(&tar).to_string());
        layers.push(put(MediaType::OCI_LAYER, &tar));
    }
    let config = serde_json::json!({ "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let config = put(MediaType::OCI_CONFIG, config.to_string().as_bytes());
    let manifest = serde_json::json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "config": config, "layers": layers });
    let manifest = put(MediaType::OCI_MANIFEST, manifest.to_string().as_bytes());
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
    std::fs::write(folder.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    manifest.digest
}

#[test]
fn skopeo_pushes_copies_lists_and_pulls() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        println!("SKIP: skopeo is not installed");
        return;
    }
    let skopeo = |args: &[&str]| {
        let output = Command::new("skopeo").arg("--insecure-policy").args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("htpasswd");
    std::fs::write(&users, format!("alice:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
    for auth in [
        String::new(),
        format!("[auth]\nhtpasswd = '{}'\n", users.display()),
        format!("[auth]\nhtpasswd = '{}'\n[auth.token]\nservice = 'test'\n", users.display()),
    ] {
        let served = Served::new(&auth);
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let _ = std::fs::remove_dir_all(&to);
        let digest = layout(&from);
        let name = |path: &str| format!("docker://{}/{path}", served.client.address);
        let creds = if auth.is_empty() { vec![] } else { vec!["--creds", "alice:secret"] };
        let (source, target) = (format!("oci:{}", from.display()), format!("oci:{}", to.display()));
        let copy = |from: &str, to: &str| {
            let mut args = vec!["copy"];
            if let Some(creds) = creds.get(1) {
                if from.starts_with("docker:") {
                    args.extend(["--src-creds", creds]);
                }
                if to.starts_with("docker:") {
                    args.extend(["--dest-creds", creds]);
                }
            }
            let mut more = vec!["--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"];
            more.extend([from, to]);
            args.extend(more);
            skopeo(&args);
        };
        copy(&source, &name("team/app:v1"));
        copy(&name("team/app:v1"), &name("team/other:v2"));
        copy(&name("team/other:v2"), &target);
        assert!(to.join("blobs/sha256").join(digest.hex()).exists(), "the same digest came back");
        let mut list = vec!["list-tags", "--tls-verify=false"];
        list.extend(&creds);
        let app = name("team/app");
        list.push(&app);
        assert!(skopeo(&list).contains("\"v1\""));
        let mut delete = vec!["delete", "--tls-verify=false"];
        delete.extend(&creds);
        let app = name("team/app:v1");
        delete.push(&app);
        skopeo(&delete);
    }
}

/// Podman pushes in both formats, with a token, and pulls what it pushed.
#[test]
fn podman_logs_in_pushes_and_pulls() {
    if Command::new("podman").arg("--version").output().is_err() || !rustix::process::geteuid().is_root() {
        println!("SKIP: podman is not installed, or this is not root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let users = folder.path().join("htpasswd");
    std::fs::write(&users, format!("alice:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
    let served =
        Served::new(&format!("[auth]\nhtpasswd = '{}'\n[auth.token]\nservice = 'test'\n", users.display()));
    let podman = |args: &[&str]| {
        let mut command = Command::new("podman");
        command.args(["--root", &place("root"), "--runroot", &place("run"), "--storage-driver", "vfs"]);
        command
            .args(["--cgroup-manager", "cgroupfs"])
            .args(args)
            .env("REGISTRY_AUTH_FILE", place("auth.json"));
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let works = |args: &[&str]| {
        let (is_done, said) = podman(args);
        assert!(is_done, "{args:?}: {said}");
    };
    let tar = place("rootfs.tar");
    std::fs::write(&tar, vec![0; 10240]).unwrap();
    let (address, tls) = (served.client.address.as_str(), "--tls-verify=false");
    works(&["import", &tar, "localhost/made:v1"]);
    let (is_done, _) = podman(&["login", tls, "--username", "alice", "--password", "wrong", address]);
    assert!(!is_done, "a wrong password is refused");
    works(&["login", tls, "--username", "alice", "--password", "secret", address]);
    for format in ["oci", "v2s2"] {
        let name = format!("{address}/team/app:{format}");
        works(&["push", tls, "--format", format, "localhost/made:v1", &name]);
        works(&["pull", tls, &name]);
    }
    works(&["search", tls, "--list-tags", &format!("{address}/team/app")]);
}
