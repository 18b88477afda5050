//! Whether programs of another platform run here: natively, or because the kernel was told who reads them.

use crate::{Error, Result};
use std::path::Path;
use yare_oci::Platform;

/// Where the kernel shows its handlers (binfmt_misc).
const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";

/// Checks that a step's programs can run.
///
/// # Errors
/// They are for another processor, and nothing here runs them.
pub(super) fn check(platform: &Platform) -> Result<()> {
    let host = Platform::host();
    if is_native(&host, platform) || handled(Path::new(HANDLERS), platform) {
        return Ok(());
    }
    let architecture = &platform.architecture;
    Err(Error::precondition(format!(
        "a step for {platform} cannot run on this host, which is {host}: nothing here emulates {architecture}"
    ))
    .with_hint(format!(
        "install an emulator for all of the host (Debian, Ubuntu: apt-get install qemu-user-static \
         binfmt-support; Fedora: dnf install qemu-user-static), or let the step run on the builder's platform: \
         FROM --platform=$BUILDPLATFORM, and cross-compile to {platform}"
    )))
}

fn is_native(host: &Platform, wanted: &Platform) -> bool {
    let also = matches!(
        (host.architecture.as_str(), wanted.architecture.as_str()),
        ("amd64", "386") | ("arm64", "arm")
    );
    host.os == wanted.os && (host.architecture == wanted.architecture || also)
}

/// Whether a handler is switched on that takes programs of this platform, and whose interpreter the kernel
/// holds open (flag `F`): another would be looked for in the step's own root.
fn handled(folder: &Path, platform: &Platform) -> bool {
    let Some(header) = header(&platform.architecture) else { return false };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| !matches!(entry.file_name().to_str(), Some("register" | "status")))
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .any(|text| takes(&text, &header))
}

/// The first bytes of a program: ELF, class, byte order, version; type and machine.
fn header(architecture: &str) -> Option<[u8; 20]> {
    let (machine, is_64, is_little): (u16, bool, bool) = match architecture {
        "amd64" => (62, true, true),
        "386" => (3, false, true),
        "arm64" => (183, true, true),
        "arm" => (40, false, true),
        "riscv64" => (243, true, true),
        "ppc64le" => (21, true, true),
        "s390x" => (22, true, false),
        "loong64" => (258, true, true),
        "mips64le" => (8, true, true),
        "mips64" => (8, true, false),
        _ => return None,
    };
    let word = |value: u16| if is_little { value.to_le_bytes() } else { value.to_be_bytes() };
    let mut header = [0; 20];
    header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1 + u8::from(is_64), 2 - u8::from(is_little), 1]);
    header[16..18].copy_from_slice(&word(2));
    header[18..].copy_from_slice(&word(machine));
    Some(header)
}

/// Whether the handler that the kernel describes so takes a program that begins so.
fn takes(handler: &str, header: &[u8]) -> bool {
    let value = |name: &str| {
        let mut lines = handler.lines().filter_map(|line| line.strip_prefix(name));
        lines.next().map(str::trim)
    };
    let is_on = handler.lines().next() == Some("enabled");
    let held = value("flags:").is_some_and(|flags| flags.contains('F'));
    let offset: usize = value("offset").and_then(|offset| offset.parse().ok()).unwrap_or_default();
    let Some(magic) = value("magic").and_then(bytes) else { return false };
    let mask = value("mask").and_then(bytes).unwrap_or_else(|| vec![0xff; magic.len()]);
    let found = header.iter().skip(offset).take(magic.len());
    let masked = found.zip(&mask).map(|(byte, mask)| byte & mask);
    let wanted = magic.iter().zip(&mask).map(|(byte, mask)| byte & mask);
    is_on && held && header.len() >= offset + magic.len() && masked.eq(wanted)
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    hex.as_bytes().chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM64: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn a_handler_takes_its_own_programs_when_it_is_on_and_held_open() {
        let takes = |handler: &str, architecture| takes(handler, &header(architecture).unwrap());
        assert!(takes(ARM64, "arm64"));
        assert!(!takes(ARM64, "riscv64") && !takes(ARM64, "amd64"));
        assert!(!takes(&ARM64.replace("enabled", "disabled"), "arm64"));
        assert!(!takes(&ARM64.replace("OCF", "OC"), "arm64"));
        assert!(!takes("enabled\nextension .x\n", "arm64"));
    }

    #[test]
    fn the_error_names_the_platform_and_the_way_out() {
        let platform = |architecture: &str| Platform::new("linux", architecture, "");
        assert!(
            is_native(&platform("amd64"), &platform("386"))
                && !is_native(&platform("386"), &platform("amd64"))
        );
        check(&Platform::host()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        assert!(!handled(folder.path(), &platform("arm64")));
        std::fs::write(folder.path().join("qemu-aarch64"), ARM64).unwrap();
        assert!(handled(folder.path(), &platform("arm64")));
        let error = check(&Platform::new("linux", "made-up", "")).unwrap_err();
        assert!(error.to_string().contains("linux/made-up"), "{error}");
        assert!(yare_errdefs::Classified::hint(&error).unwrap().contains("binfmt-support"));
    }
}
