//! `yare daemon --install`: systemd units for this binary.

use crate::rootless::Places;
use std::path::Path;
use yare_errdefs::{Error, Result};

const UNITS: &str = "/etc/systemd/system";

/// Writes `yare.service` and `yare.socket`, or a user's `yare.service`; the other flags given go into the service.
pub(super) fn install(args: &[String], places: Option<&Places>) -> Result<()> {
    let binary = std::env::current_exe()
        .map_err(|error| Error::internal("cannot find this binary").caused_by(error))?;
    let flags: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .filter(|arg| !matches!(*arg, "--install" | "--install=true"))
        .collect();
    if let Some(places) = places {
        std::fs::create_dir_all(&places.units).map_err(|error| cannot_write(&places.units, error))?;
        write(&places.units.join("yare.service"), &users_service(&binary, &flags)?)?;
        crate::say(
            "start it with: systemctl --user daemon-reload && systemctl --user enable --now yare.service\n\
             loginctl enable-linger has it go on without a login\n",
        );
        return Ok(());
    }
    let units = Path::new(UNITS);
    write(&units.join("yare.service"), &service(&binary, &flags)?)?;
    write(&units.join("yare.socket"), SOCKET)?;
    crate::say("start it with: systemctl daemon-reload && systemctl enable --now yare.socket yare.service\n");
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| cannot_write(path, error))?;
    crate::say(&format!("wrote {}\n", path.display()));
    Ok(())
}

fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    Error::internal(format!("cannot write {}", path.display()))
        .caused_by(error)
        .with_hint("run as root, or as the user who is to have the engine, on a host with systemd")
}

/// The engine of a user: it makes its socket itself.
fn users_service(binary: &Path, flags: &[&str]) -> Result<String> {
    let mut command = vec![quoted(&binary.display().to_string())?, "daemon".to_owned()];
    for flag in flags {
        command.push(quoted(flag)?);
    }
    // KillMode=process: what keeps the namespaces, and containers in them, survive it.
    Ok(format!(
        "[Unit]\nDescription=Yare container engine of this user\n\n[Service]\nType=exec\nExecStart={}\nRestart=always\n\
         RestartSec=1\nKillMode=process\n\n[Install]\nWantedBy=default.target\n",
        command.join(" ")
    ))
}

fn service(binary: &Path, flags: &[&str]) -> Result<String> {
    let mut command = vec![quoted(&binary.display().to_string())?, "daemon".to_owned()];
    if !flags.iter().any(|flag| flag.starts_with("-H") || flag.starts_with("--host")) {
        command.push("-H fd://".to_owned());
    }
    for flag in flags {
        command.push(quoted(flag)?);
    }
    // KillMode=process: systemd ends the engine alone. The containers are not its children's children by
    // accident, but by promise they survive it.
    Ok(format!(
        "[Unit]\nDescription=Yare container engine\nAfter=network-online.target yare.socket\nWants=network-online.target\n\
         Requires=yare.socket\n\n[Service]\nType=notify\nExecStart={}\nRestart=always\nRestartSec=1\nKillMode=process\n\
         Delegate=yes\nLimitNOFILE=1048576\nLimitNPROC=infinity\nTasksMax=infinity\nOOMScoreAdjust=-500\n\n[Install]\n\
         WantedBy=multi-user.target\n",
        command.join(" ")
    ))
}

const SOCKET: &str = "[Unit]\nDescription=Yare container engine API\n\n[Socket]\nListenStream=/run/yare/yare.sock\n\
                      SocketMode=0660\nSocketUser=root\nSocketGroup=root\n\n[Install]\nWantedBy=sockets.target\n";

/// A word of a unit file's command line.
fn quoted(word: &str) -> Result<String> {
    if word.contains(['\n', '\0']) {
        return Err(Error::invalid(format!("{word:?} cannot stand in a unit file")));
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    Ok(if escaped.contains(char::is_whitespace) { format!("\"{escaped}\"") } else { escaped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_into_the_unit_quoted() {
        let unit = service(Path::new("/usr/local/bin/yare"), &["--data-root", "/my data/100%"]).unwrap();
        assert!(
            unit.contains("ExecStart=/usr/local/bin/yare daemon -H fd:// --data-root \"/my data/100%%\"\n"),
            "{unit}"
        );
        assert!(unit.contains("KillMode=process"));
        let unit = users_service(Path::new("/home/ann/yare"), &["--debug"]).unwrap();
        assert!(unit.contains("ExecStart=/home/ann/yare daemon --debug\n"), "{unit}");
        assert!(unit.contains("KillMode=process") && unit.contains("WantedBy=default.target"));
        assert!(service(Path::new("/y"), &["a\nb"]).is_err());
    }
}
